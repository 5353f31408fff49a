"""Latency against accuracy, size as area: which rows nothing beats in both, as inline SVG in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clip_edge.benchmarks.plots import HEIGHT, INNER_HEIGHT, INNER_WIDTH, LEFT, RIGHT, TOP, WIDTH
from clip_edge.benchmarks.report import Report, Row
from clip_edge.benchmarks.tables import duration
from clip_edge.files import human_bytes

SMALLEST, LARGEST = 7.0, 14.0  # radii in pixels
EXACT = 1e-7  # what is nearer to 1 than this is drawn there: an fp32 dot product rounds by as much
COLOURS = 4
AT_LEAST = 3  # rows; two need no picture


@dataclass(frozen=True)
class Dot:
    """A row of the figure. `number` finds it in the legend, `front` says that no other is faster and as accurate."""

    number: int
    bundle: str
    name: str
    p50_s: float
    cosine: float
    file_bytes: int
    colour: int
    front: bool

    @property
    def words(self) -> str:
        """The legend's line."""
        return f"{self.name}: {duration(self.p50_s)}, cosine {self.cosine:.4f}, {human_bytes(self.file_bytes)}"


@dataclass(frozen=True)
class Figure:
    """One tower and number of threads, one query at a time."""

    title: str
    dots: tuple[Dot, ...]
    svg: str


def figures(report: Report) -> list[Figure]:
    """A figure for each tower and number of threads that has enough rows with a known accuracy, at batch 1."""
    rows = [row for row in report.results if row.accuracy and row.batch == 1 and row.scenario == "single-stream"]
    found = []
    for tower, threads in dict.fromkeys((row.tower, row.threads) for row in rows):
        some = [row for row in rows if (row.tower, row.threads) == (tower, threads)]
        if len(some) >= AT_LEAST:
            dots = dots_of(some)
            title = f"{tower} tower, {threads} thread{'s' if threads > 1 else ''}"
            found.append(Figure(title, dots, scatter(dots)))
    return found


def dots_of(rows: Sequence[Row]) -> tuple[Dot, ...]:
    """The rows in the order of their latency; every bundle has a colour, and a front: how near a row comes to one model
    says nothing about another."""
    bundles = list(dict.fromkeys(row.bundle for row in rows))
    dots: list[Dot] = []
    best = dict.fromkeys(bundles, -math.inf)
    for number, row in enumerate(sorted(rows, key=lambda row: row.latency_s.p50), 1):
        assert row.accuracy is not None
        cosine = row.accuracy.min_cosine
        names = ([row.bundle] if len(bundles) > 1 else []) + [row.precision, row.backend]
        colour = bundles.index(row.bundle) % COLOURS
        front = digits(cosine) > best[row.bundle]
        best[row.bundle] = max(best[row.bundle], digits(cosine))
        name = " · ".join(names)
        dots.append(Dot(number, row.bundle, name, row.latency_s.p50, cosine, row.file_bytes, colour, front))
    return tuple(dots)


def digits(cosine: float) -> float:
    """How many nines: 0.999 -> 3. Differences that rounding makes are none."""
    return round(-math.log10(max(EXACT, 1 - cosine)), 2)


def scatter(dots: Sequence[Dot]) -> str:
    """The SVG: latency on a logarithmic axis, nines of the cosine upwards, file size as area, the front as a line."""
    lows, highs = math.log10(min(dot.p50_s for dot in dots)), math.log10(max(dot.p50_s for dot in dots))
    low, high = lows - 0.08, max(highs + 0.08, lows + 0.3)
    top = max(4.0, *(digits(dot.cosine) for dot in dots)) + 0.5
    largest = max(dot.file_bytes for dot in dots)

    def place(dot: Dot) -> tuple[float, float]:
        across = (math.log10(dot.p50_s) - low) / (high - low)
        return LEFT + across * INNER_WIDTH, TOP + (1 - max(0.0, digits(dot.cosine)) / top) * INNER_HEIGHT

    label = "; ".join(f"{dot.number} {dot.name.replace('·', ',')} {duration(dot.p50_s)}" for dot in dots)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_plain(label)}">', *_axes(low, high, top)]
    for bundle in dict.fromkeys(dot.bundle for dot in dots):
        steps = [place(dot) for dot in dots if dot.front and dot.bundle == bundle]
        path = " ".join(f"{across:.1f},{up:.1f}" for across, up in steps)
        parts.append(f'<polyline class="front" points="{path}"/>')
    for dot in sorted(dots, key=lambda dot: -dot.file_bytes):  # small ones stay visible
        across, up = place(dot)
        radius = SMALLEST + (LARGEST - SMALLEST) * math.sqrt(dot.file_bytes / largest)
        parts.append(f'<circle class="point c{dot.colour}" cx="{across:.1f}" cy="{up:.1f}" r="{radius:.1f}"/>')
        parts.append(f'<text class="number-in" x="{across:.1f}" y="{up + 4:.1f}">{dot.number}</text>')
    return "".join([*parts, "</svg>"])


def _axes(low: float, high: float, top: float) -> list[str]:
    parts = []
    for nines in range(0, int(top) + 1, 1 if top < 5 else 2):
        up = TOP + (1 - nines / top) * INNER_HEIGHT
        text = f"{1 - 10.0**-nines:.{max(1, nines)}f}" if nines < 4 else f"{nines} nines"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up:.1f}" y2="{up:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{up + 4:.1f}" text-anchor="end">{text}</text>')
    for seconds in _marks(10**low, 10**high):
        across = LEFT + (math.log10(seconds) - low) / (high - low) * INNER_WIDTH
        text = duration(seconds).replace(".00", "").replace(".0 ", " ")
        parts.append(f'<text class="tick" x="{across:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{text}</text>')
    return parts


def _marks(low_s: float, high_s: float) -> list[float]:
    marks = [
        factor * 10.0**power
        for power in range(math.floor(math.log10(low_s)), math.ceil(math.log10(high_s)) + 1)
        for factor in (1, 2, 5)
    ]
    inside = [mark for mark in marks if low_s <= mark <= high_s]
    return inside if len(inside) <= 6 else inside[:: -(-len(inside) // 6)]


def _plain(text: str) -> str:
    """A name is anybody's: nothing that ends an attribute stays."""
    return "".join(letter if letter.isalnum() or letter in " .,;:-_µ" else " " for letter in text)
