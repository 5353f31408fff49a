"""Line charts as inline SVG: no script, no font files, colours from the page's own CSS variables (dark mode)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 12, 34  # "10 nines" and "100 ms" fit
INNER_WIDTH, INNER_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
MAX_POINTS = 400  # more than there are pixels to tell them apart


@dataclass(frozen=True)
class Line:
    """One named curve: finite (x, y) points in the order of x."""

    name: str
    points: tuple[tuple[float, float], ...]


def line_chart(lines: Sequence[Line], *, x_name: str, percent: bool = False) -> str:
    """An SVG of up to four lines over one x axis. `percent` reads y in 0..1 and fixes the axis to 0-100 %."""
    drawn = [Line(line.name, _thinned(line.points)) for line in lines if line.points]
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    x_ticks = ticks(min(0.0, *xs), max(xs)) if xs else [0.0, 1.0]
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if percent or not ys else ticks(min(0.0, *ys), max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * INNER_WIDTH, TOP + (1 - up) * INNER_HEIGHT

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_label(drawn, x_name)}">']
    for y in y_ticks:
        _, height = place(x_ticks[0], y)
        text = f"{y:.0%}" if percent else f"{y:g}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{text}</text>')
    for x in x_ticks:
        across, _ = place(x, y_ticks[0])
        parts.append(f'<text class="tick" x="{across:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{x:g}</text>')
    parts.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(x_name)}</text>')
    for i, line in enumerate(drawn):
        places = [place(x, y) for x, y in line.points]
        path = " ".join(f"{across:.1f},{height:.1f}" for across, height in places)
        parts.append(f'<polyline class="line c{i}" points="{path}"/>')
        parts.append(f'<circle class="dot c{i}" cx="{places[-1][0]:.1f}" cy="{places[-1][1]:.1f}" r="3.5"/>')
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that cover low..high: steps of 1, 2 or 5 times a power of ten."""
    span = high - low if high > low else 1.0
    raw = span / (count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    return [round(i * step, 12) for i in range(first, last + 1)]


def _thinned(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    stride = -(-len(points) // MAX_POINTS)
    kept = points[::stride]
    return kept if kept[-1] == points[-1] else (*kept, points[-1])


def _label(lines: Sequence[Line], x_name: str) -> str:
    ends = ", ".join(f"{line.name} ends at {line.points[-1][1]:.3g}" for line in lines)
    return escape(f"{ends}; over {x_name}", {'"': "&quot;"})
