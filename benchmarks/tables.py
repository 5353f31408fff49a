"""A report as people read it: cells for a terminal table, and a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence

from clip_edge.benchmarks.peers import PREFIX
from clip_edge.benchmarks.report import Accuracy, Ceiling, Report, Row, RowChange
from clip_edge.benchmarks.standings import standings
from clip_edge.benchmarks.stats import least_visible
from clip_edge.files import human_bytes

SWEPT = ("device", "bundle", "tower", "precision", "backend", "batch", "threads", "scenario")


HERE = "this machine"


def duration(seconds: float | None) -> str:
    """A time in the unit a person would use, three significant digits: 870 µs, 12.3 ms, 1.05 s."""
    if seconds is None:
        return "–"
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return f"{_three_digits(seconds * factor)} {unit}"
    return f"{_three_digits(seconds * 1e9)} ns"


def energy(joules: float) -> str:
    """12.3 mJ, 1.05 J."""
    return f"{_three_digits(joules)} J" if joules >= 1 else f"{_three_digits(joules * 1e3)} mJ"


def _three_digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}"


def varying(rows: Sequence[Row]) -> list[str]:
    """The swept settings that differ between rows; the tower is always named."""
    return [name for name in SWEPT if name == "tower" or len({getattr(row, name) for row in rows}) > 1]


def _word(row: Row, name: str) -> str:
    return str(getattr(row, name)) or HERE  # only the device may be empty


def shared(rows: Sequence[Row]) -> dict[str, str]:
    """The swept settings that are the same in every row, for the line above the table."""
    names = varying(rows)
    found = {name: _word(rows[0], name) for name in SWEPT if rows and name not in names}
    return found if found.get("device") != HERE else {name: word for name, word in found.items() if name != "device"}


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Columns (`>` aligns right) and cells for a terminal or Markdown. Only settings that vary have a column."""
    names = varying(rows)
    columns = [f">{name}" if name in ("batch", "threads") else name for name in names]
    columns += [">p50", ">p90", ">p99", ">jitter", ">per s", ">peak memory", ">file", ">min cosine"]
    counted = any(row.energy_j is not None for row in rows)
    shares = any(row.share is not None for row in rows)
    columns += [">energy"] * counted + [">of matmul", ">of bandwidth"] * shares + ["stages"]
    cells = []
    for row in rows:
        latency = row.latency_s
        cells.append(
            [
                *(_word(row, name) for name in names),
                *(duration(latency.p50), duration(latency.p90), duration(latency.p99)),
                duration(latency.jitter) if len(row.samples_s) > 1 else "–",
                _three_digits(row.throughput_per_s),
                "–" if row.memory_rss_bytes is None else human_bytes(row.memory_rss_bytes),
                human_bytes(row.file_bytes),
                "–" if row.accuracy is None else _cosine(row.accuracy),
                *(["–" if row.energy_j is None else energy(row.energy_j)] * counted),
                *(_shares(row) * shares),
                " · ".join(f"{name} {duration(seconds)}" for name, seconds in row.stages_s.items()),
            ]
        )
    return columns, cells


def _shares(row: Row) -> list[str]:
    return ["–", "–"] if row.share is None else [f"{row.share.matmul:.0%}", f"{row.share.bandwidth:.0%}"]


def ceiling_line(ceiling: Ceiling) -> str:
    """`cpu, 2 threads: matmul float32 210 GFLOP/s, bfloat16 1.40 TFLOP/s, copies 12.0 GB/s (torch 2.13.0)`."""
    where = ceiling.name if ceiling.kind == "cuda" else f"{ceiling.name}, threads {ceiling.threads}"
    products = ", ".join(f"{name} {_rate(value, 'FLOP/s')}" for name, value in ceiling.matmul_flops_per_s.items())
    return f"ceilings of {where}: matmul {products}; copies {_rate(ceiling.copy_bytes_per_s, 'B/s')} ({ceiling.engine})"


def _rate(value: float, unit: str) -> str:
    factor, prefix = (1e12, "T") if value >= 1e12 else (1e9, "G")
    return f"{_three_digits(value / factor)} {prefix}{unit}"


def standings_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Ours beside the fastest peer: columns and cells as of `table`; no cells without peers."""
    columns = ["model", "tower", ">batch", ">threads", "ours", "verdict", ">p50", "fastest peer", ">p50", ">ratio"]
    cells = []
    for item in standings(rows):
        ours, peer, change = item.ours, item.peer, item.change
        cells.append(
            [
                *(ours.bundle, ours.tower, str(ours.batch), str(ours.threads)),
                *(f"{ours.precision} {ours.backend}", item.verdict, duration(ours.latency_s.p50)),
                *(f"{peer.precision} {peer.backend.removeprefix(PREFIX)}", duration(peer.latency_s.p50)),
                f"{change.ratio:.2f} ({change.ratio_low:.2f} … {change.ratio_high:.2f})",
            ]
        )
    return columns, cells


def _cosine(accuracy: Accuracy) -> str:
    """The smallest cosine; where it is too small, with what was wanted."""
    return f"{accuracy.min_cosine:.6f}" + ("" if accuracy.passed else f" < {accuracy.tolerance}")


def change_line(item: RowChange) -> str:
    """One comparison in words: `1.07 × slower (1.05 … 1.09, p < 0.001)`."""
    change = item.change
    probability = "p < 0.001" if change.p_value < 0.001 else f"p = {change.p_value:.3f}"
    interval = f"{change.ratio_low:.3f} … {change.ratio_high:.3f}, {probability}"
    if change.reference_ratio is not None:
        visible = least_visible(change.reference_ratio)
        interval += f"; machine {change.reference_ratio:.3f} ×, divided out; less than {visible:.1%} is not judged"
    if change.verdict == "same":
        return f"{item.row}: no difference ({change.ratio:.3f} × the old time, {interval})"
    factor = change.ratio if change.verdict == "slower" else 1 / change.ratio
    return f"{item.row}: {factor:.2f} × {change.verdict} ({change.ratio:.3f} × the old time, {interval})"


def markdown(report: Report) -> str:
    """The report as a Markdown page: where ours stands, the table, its settings, the machine and the warnings."""
    lines = ["# Benchmark", ""]
    columns, cells = standings_table(report.results)
    if cells:
        lines += ["## Ours beside the fastest peer", "", *_markdown_table(columns, cells), "", "## Every row", ""]
    columns, cells = table(report.results)
    fixed = ", ".join(f"{name} {value}" for name, value in shared(report.results).items())
    lines += [f"{fixed}." if fixed else "", "", *_markdown_table(columns, cells)]
    environment, settings = report.environment, report.settings
    lines += ["", f"Timed: {settings.timed}.", ""]
    lines += [f"- CPU: {_markdown_text(environment.cpu)}, {environment.usable_cores} cores"]
    lines += [f"- system: {environment.operating_system}, Python {environment.python}"]
    lines += [f"- {name}: {version}" for name, version in environment.packages.items()]
    lines += [f"- energy: {_markdown_text(environment.energy)}"]
    lines += [f"- {_markdown_text(ceiling_line(ceiling))}" for ceiling in report.ceilings]
    lines += [f"- work: {settings.workload.images} pictures and {settings.workload.texts} sentences"]
    lines += [f"- warning: {_markdown_text(warning)}" for warning in report.warnings]
    lines += [f"- not measured: {_markdown_text(f'{item.row}: {item.reason}')}" for item in report.failures]
    if report.compare:
        lines += ["", "## Against the older report", ""]
        lines += [f"- {_markdown_text(change_line(item))}" for item in report.compare]
    return "\n".join(lines) + "\n"


def _markdown_table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    return [
        _markdown_row([column.removeprefix(">") for column in columns]),
        _markdown_row(["---:" if column.startswith(">") else "---" for column in columns]),
        *(_markdown_row([_markdown_text(cell) for cell in row]) for row in cells),
    ]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_text(text: str) -> str:
    for character in "\\|`*_[]<>":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
