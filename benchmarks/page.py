"""report.html: one file that needs nothing else, readable on a phone and in the dark.

Captions and names may come from anybody's data: every value passes through Jinja's escaping, and the page's
Content-Security-Policy forbids scripts and requests even if one got through.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_edge import __version__
from clip_edge.benchmarks.pareto import figures
from clip_edge.benchmarks.plots import Line, line_chart
from clip_edge.benchmarks.report import Report, Row
from clip_edge.benchmarks.tables import (
    HERE,
    ceiling_line,
    change_line,
    duration,
    shared,
    standings_table,
    table,
    varying,
)
from clip_edge.errors import UnavailableError
from clip_edge.files import human_bytes

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
STAGES = ("decode", "preprocess", "tokenise", "encode", "transfer", "start", "import", "load", "first")


@dataclass(frozen=True)
class Headline:
    """A large figure at the top."""

    value: str
    name: str


@dataclass(frozen=True)
class Check:
    """Something that had to hold, what was found, and whether it held."""

    name: str
    wanted: str
    found: str
    passed: bool


@dataclass(frozen=True)
class Hit:
    """One picture (encoded bytes) found for a sentence."""

    image: bytes
    cosine: float
    right: bool


@dataclass(frozen=True)
class Search:
    """A sentence and the pictures that the model finds for it, best first; `rank` is the right picture's, from 1."""

    text: str
    lang: str
    split: str
    rank: int
    candidates: int
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Chart:
    """A titled line chart."""

    title: str
    lines: tuple[Line, ...]
    percent: bool = False


@dataclass(frozen=True)
class Table:
    """Columns (`>` aligns right) and cells."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Command:
    """A command line and how long it took."""

    words: str
    seconds: float


@dataclass(frozen=True)
class Page:
    """Everything on the page; a section without content is left out."""

    title: str
    subtitle: str = ""
    headlines: tuple[Headline, ...] = ()
    checks: tuple[Check, ...] = ()
    comparison: Table | None = None
    comparison_note: str = ""
    charts: tuple[Chart, ...] = ()
    retrieval: Table | None = None
    searches: tuple[Search, ...] = ()
    contact_sheet: bytes | None = None
    attribution: str = ""
    parity: Table | None = None
    parity_note: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    commands: tuple[Command, ...] = ()
    report: Report | None = None


def render(page: Page) -> bytes:
    """The page as UTF-8 HTML.

    Raises:
        UnavailableError: jinja2 is not installed.
    """
    return environment().get_template("report.html").render(page=page, version=__version__).encode()


@cache
def environment() -> Environment:
    """Jinja with escaping on for everything, and errors for names that do not exist.

    Raises:
        UnavailableError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as problem:
        raise UnavailableError(
            "report.html needs the package `jinja2`, which is not installed",
            hint="pip install 'clip-edge[bench]', or leave out --out: the table and --json need nothing more",
        ) from problem
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"picture": picture, "chart": _chart, "cell": _cell, "drawn": _drawn, "ceiling_line": ceiling_line}
    made.globals |= {
        "latency": latency_rows,
        "machine": machine_facts,
        "changes": _changes,
        "bench_table": _bench_table,
        "standings": lambda report: Table(*standings_table(report.results)),
        "devices": by_device,
        "pareto": figures,
        "soaks": soak_charts,
    }
    return made


def picture(data: bytes) -> str:
    """Encoded PNG, JPEG or WebP bytes as a data URL."""
    kind = "png" if data.startswith(b"\x89PNG") else "webp" if data[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@dataclass(frozen=True)
class Bar:
    """One row of the latency figure: stages as shares of the widest row."""

    name: str
    total: str
    parts: tuple[tuple[str, float, str], ...]  # stage, percent of the full width, time in words


def latency_rows(report: Report) -> list[tuple[str, list[Bar]]]:
    """The rows as stacked bars, one figure per scenario: only rows of one scenario share a scale."""
    figures: list[tuple[str, list[Bar]]] = []
    for scenario in dict.fromkeys(row.scenario for row in report.results):
        rows = [row for row in report.results if row.scenario == scenario]
        widest_s = max(max(sum(row.stages_s.values()), row.latency_s.p50) for row in rows)
        figures.append((scenario, [_bar(row, rows, widest_s) for row in rows]))
    return figures


def _bar(row: Row, rows: Sequence[Row], widest_s: float) -> Bar:
    names = [_setting(name, getattr(row, name)) for name in varying(rows)]
    parts = [
        (stage, 100 * row.stages_s[stage] / widest_s, duration(row.stages_s[stage]))
        for stage in STAGES
        if row.stages_s.get(stage, 0.0) > 0
    ]
    return Bar(" · ".join(names), duration(row.latency_s.p50), tuple(parts))


def _setting(name: str, value: object) -> str:
    return f"{name} {value}" if name in ("batch", "threads") else str(value)


def machine_facts(report: Report) -> Mapping[str, str]:
    """The environment and the settings, in words."""
    here, settings = report.environment, report.settings
    versions = {"Python": here.python, **here.packages}
    facts = {
        "processor": f"{here.cpu}, {here.usable_cores} cores",
        "instruction sets": " ".join(here.isa),
        "memory": "" if here.memory_bytes is None else human_bytes(here.memory_bytes),
        "system": here.operating_system,
        "load at the start": "" if here.load_average_1min is None else f"{here.load_average_1min:.2f}",
        "governor": here.governor or "not readable",
        "temperature": "not readable" if here.temperature_c is None else f"{here.temperature_c:.0f} °C",
        "energy": here.energy,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "work": f"{settings.workload.images} pictures of {human_bytes(settings.workload.mean_image_bytes)} on average, "
        f"{settings.workload.texts} sentences ({settings.workload.source})",
        "timed": settings.timed,
        "same in all rows": ", ".join(_setting(name, value) for name, value in shared(report.results).items()),
        "measured": report.created_at,
    }
    facts |= {f"device, {name} the run": value for name, value in _device_facts(report).items()}
    return {name: value for name, value in facts.items() if value}


def _device_facts(report: Report) -> Mapping[str, str]:
    """The other machine of a part, before and after, in its own words."""
    device = report.devices.get(report.results[0].device) if report.results else None
    if device is None:
        return {}
    states = {"before": device.before, "after": device.after}
    return {when: "; ".join(f"{name} {value}" for name, value in state.items()) for when, state in states.items()}


def by_device(report: Report) -> list[tuple[str, Report]]:
    """The report in parts, one for each machine that rows were measured on."""
    names = dict.fromkeys(row.device for row in report.results)
    parts = []
    for name in names:
        rows = tuple(row for row in report.results if row.device == name)
        parts.append((name or HERE, replace(report, results=rows)))
    return parts


def soak_charts(report: Report) -> list[Chart]:
    """The curves of soaks: milliseconds over seconds."""
    return [
        Chart(
            f"{row.bundle} · {row.tower} · {row.precision}: milliseconds, over seconds without a pause",
            (Line("median", tuple((point.at_s, 1e3 * point.p50_s) for point in row.soak.points)),),
        )
        for row in report.results
        if row.soak is not None and len(row.soak.points) > 1
    ]


def _bench_table(report: Report) -> Table:
    columns, rows = table(report.results)
    return Table(columns[:-1], [row[:-1] for row in rows])  # the stages are drawn


def _changes(report: Report) -> list[tuple[str, str]]:
    return [(item.change.verdict, change_line(item)) for item in report.compare]


def _chart(chart: Chart, x_name: str = "step") -> Any:
    return _drawn(line_chart(chart.lines, x_name=x_name, percent=chart.percent))


def _drawn(svg: str) -> Any:
    from markupsafe import Markup

    return Markup(svg)  # whoever drew it escaped its text


def _cell(column: str) -> str:
    return "number" if column.startswith(">") else ""
