"""Minutes of the same work: whether a device slows down when it is warm, and whether memory grows."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from clip_edge import machine
from clip_edge.benchmarks.stats import Verdict, compare

POINTS = 60  # of the curve: enough to see a step, few enough to read
WATCH_S = 1.0
ENDS_SHARE = 0.2  # the first and the last fifth are compared


@dataclass(frozen=True)
class SoakPoint:
    """A window of the curve; None: this system does not tell."""

    at_s: float
    p50_s: float
    rss_bytes: int | None
    temperature_c: float | None
    frequency_hz: float | None


@dataclass(frozen=True)
class Soak:
    """The curve, and its two ends against each other. `slowdown` is last / first fifth of the queries, in medians."""

    points: tuple[SoakPoint, ...]
    slowdown: float
    verdict: Verdict
    rss_growth_bytes: int | None  # from the first fifth to the last: engines still allocate in their first queries


@dataclass(frozen=True)
class _State:
    at_s: float
    rss_bytes: int | None
    temperature_c: float | None
    frequency_hz: float | None


class Watch:
    """Reads memory, temperature and clock of this process and machine once a second, beside the work."""

    def __init__(self) -> None:
        self.states: list[_State] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started_s = 0.0

    def __enter__(self) -> Self:
        self._started_s = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self._look()  # a soak shorter than a second has a state, too

    def _run(self) -> None:
        self._look()
        while not self._ended.wait(WATCH_S):
            self._look()

    def _look(self) -> None:
        at_s = time.perf_counter() - self._started_s
        self.states.append(_State(at_s, resident_bytes(), machine.temperature_c(), machine.frequency_hz()))


def resident_bytes() -> int | None:
    """What this process has resident now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


def summarise_soak(samples_s: Sequence[float], states: Sequence[_State]) -> Soak:
    """The curve of a soak from its queries, which followed each other without a pause, and the states beside them."""
    size = max(1, -(-len(samples_s) // POINTS))
    ends_s = [0.0]
    for seconds in samples_s:
        ends_s.append(ends_s[-1] + seconds)
    points = []
    for start in range(0, len(samples_s), size):
        window = samples_s[start : start + size]
        at_s = ends_s[start + len(window)]
        near = min(states, key=lambda state: abs(state.at_s - at_s))
        p50_s = statistics.median(window)
        points.append(SoakPoint(round(at_s, 3), p50_s, near.rss_bytes, near.temperature_c, near.frequency_hz))
    share = max(1, round(ENDS_SHARE * len(samples_s)))
    change = compare(samples_s[:share], samples_s[-share:])
    return Soak(tuple(points), change.ratio, change.verdict, _growth(points))


def _growth(points: Sequence[SoakPoint]) -> int | None:
    known = [point.rss_bytes for point in points if point.rss_bytes is not None]
    if not known:
        return None
    share = max(1, round(ENDS_SHARE * len(known)))
    return max(known[-share:]) - max(known[:share])
