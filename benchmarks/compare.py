"""New report against old: refuses unlike settings, then says faster or slower with a test."""

from __future__ import annotations

from pathlib import Path

from clip_edge.benchmarks.environment import Environment
from clip_edge.benchmarks.report import Report, Row, RowChange, Settings
from clip_edge.benchmarks.stats import FLOOR_MIN_SAMPLES, Comparison, compare, compare_floors
from clip_edge.errors import UsageError
from clip_edge.schema import as_dict

# What changes the population that samples are drawn from. The stopping rules only change how many are drawn.
SETTINGS = ("workload", "timed", "warmup_s", "offline_samples", "own_processes")
DEVICE = ("cpu", "usable_cores", "architecture", "governor", "on_battery")


def compare_reports(old: Report, new: Report, *, old_path: Path) -> tuple[RowChange, ...]:
    """The rows that both reports have, each with a verdict.

    A report of one bundle is compared with another of one bundle whatever their names: two models may be compared.

    Raises:
        UsageError: the reports were taken with other settings, on another machine, or share no row.
    """
    refuse_unlike(old, new.settings, new.environment, old_path=old_path)
    one_bundle = len(old.bundles) == len(new.bundles) == 1

    def name(row: Row) -> tuple[str, ...]:
        return row.key[1:] if one_bundle else row.key

    before = {name(row): row for row in old.results}
    pairs = [(before[name(row)], row) for row in new.results if name(row) in before]
    alike = old.settings.reference == new.settings.reference
    if not pairs:
        example = " · ".join(old.results[0].key) if old.results else "nothing"
        raise UsageError(
            "the two reports share no row", where=old_path, hint=f"measure what the old one holds, such as {example}"
        )
    return tuple(RowChange(" · ".join(name(row)), compare_rows(was, row, alike=alike)) for was, row in pairs)


def compare_rows(was: Row, row: Row, *, alike: bool = True) -> Comparison:
    """Over the reference load where both rows have the same one and samples enough, else of the plain medians."""
    enough = all(min(len(one.samples_s), len(one.reference_s)) >= FLOOR_MIN_SAMPLES for one in (was, row))
    if alike and enough:
        return compare_floors(was.samples_s, row.samples_s, was.reference_s, row.reference_s)
    return compare(was.samples_s, row.samples_s)


def refuse_unlike(old: Report, settings: Settings, environment: Environment, *, old_path: Path) -> None:
    """Raise UsageError naming every setting and every part of the machine that differs.

    Library versions may differ: they are what a comparison is often for. They stand in both reports.
    """
    pairs = [(f"settings.{name}", getattr(old.settings, name), getattr(settings, name)) for name in SETTINGS]
    pairs += [(f"environment.{name}", getattr(old.environment, name), getattr(environment, name)) for name in DEVICE]
    unlike = [f"{name}: {_short(was)} then, {_short(now)} now" for name, was, now in pairs if was != now]
    if unlike:
        raise UsageError(
            "the two reports were not taken alike:\n  " + "\n  ".join(unlike),
            where=old_path,
            hint="measure both on one machine with the same options, pictures and sentences (--image, --text)",
        )


def _short(value: object) -> str:
    if hasattr(value, "sha256"):
        return f"`{as_dict(value)['source']}` {str(value.sha256)[:12]}"
    return f"`{value}`"
