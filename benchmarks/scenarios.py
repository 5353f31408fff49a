"""How samples are taken: warm-up, visits in turn, and rules that end by statistics.

Scenarios follow MLPerf Inference (Reddi et al. 2020, §4):
    single-stream  one query at a time, the next when the last has ended: latency percentiles
    multi-stream   eight samples a query, as from eight cameras; the next when all eight are done: latency percentiles
    offline        all samples handed over at once: samples per second
    cold-start     from the launch of a process to its first embedding (ours)
    soak           single-stream for minutes without a pause: does it slow down, does memory grow (ours)
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Literal, get_args

from clip_edge.benchmarks.energy import EnergyMeter
from clip_edge.benchmarks.reference import EVERY_S, ReferenceLoad
from clip_edge.benchmarks.soak import Watch
from clip_edge.benchmarks.stats import median_interval
from clip_edge.console import SILENT, Console
from clip_edge.errors import ClipEdgeError

Scenario = Literal["single-stream", "multi-stream", "offline", "cold-start", "soak"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)


@dataclass(frozen=True)
class Timing:
    """One query: how long it took, and its stages, all in seconds."""

    seconds: float
    stages_s: Mapping[str, float]


Query = Callable[[], Timing]


def timed(work: Callable[[], Mapping[str, float]]) -> Query:
    """A query that runs `work`, which returns the seconds of its stages, under the clock."""

    def query() -> Timing:
        started_s = time.perf_counter()
        stages_s = work()
        return Timing(time.perf_counter() - started_s, stages_s)

    return query


@dataclass(frozen=True)
class Rules:
    """When a row has been measured well enough. Durations count time inside the query."""

    warmup_s: float = 0.2
    warmup_samples: int = 5
    rewarm_samples: int = 1  # the rows between two visits have pushed this one's data out of the caches
    min_duration_s: float = 8.0  # in two seconds a shared machine gave floors that differed by up to 6 %
    min_samples: int = 100  # what p99 needs
    max_duration_s: float = 10.0
    precision: float = 0.01  # stop when the 95 % interval of the median is within ±1 %
    visit_s: float = 0.5  # rows take turns of this length, so that a slow minute hits them all alike

    @property
    def limit_s(self) -> float:
        """How long a row takes at most; `soak` is one long visit."""
        return max(self.max_duration_s, self.visit_s)


COLD_RULES = Rules(
    warmup_s=0.0,
    warmup_samples=1,
    rewarm_samples=0,
    min_duration_s=0.0,
    min_samples=5,
    precision=0.05,
    visit_s=0.0,
)  # the first launch fills the page cache and is not counted


@dataclass
class Sampler:
    """The samples of one row; `query` does the work once. `failure` says in words why it could not go on."""

    query: Query
    rules: Rules = field(default_factory=Rules)
    meter: EnergyMeter | None = None
    watch: Watch | None = None
    reference: ReferenceLoad | None = None
    energy_j: float = 0.0
    failure: str | None = None
    samples_s: list[float] = field(default_factory=list)
    reference_s: list[float] = field(default_factory=list)
    stages_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    warm: bool = False

    @property
    def duration_s(self) -> float:
        """The time measured so far."""
        return sum(self.samples_s)

    @property
    def used_s(self) -> float:
        """How much of its time the row has had; a row that is done needs no more."""
        limit_s = self.rules.limit_s
        return limit_s if self.finished or self.failure else min(self.duration_s, limit_s)

    @property
    def finished(self) -> bool:
        """Whether the rules are met: long enough and the median known well, or the time is up."""
        rules = self.rules
        if not self.samples_s:
            return False
        if self.duration_s >= rules.max_duration_s:
            return True
        if len(self.samples_s) < rules.min_samples or self.duration_s < rules.min_duration_s:
            return False
        return self.uncertainty <= rules.precision

    @property
    def uncertainty(self) -> float:
        """Half the width of the median's 95 % interval, relative to the median."""
        low, high = median_interval(self.samples_s)
        return (high - low) / 2 / statistics.median(self.samples_s)

    def visit(self) -> None:
        """Warm up if this is the first visit, then take samples for `visit_s`, and at least one."""
        rules = self.rules
        if self.warm:
            self._warm_up(rules.rewarm_samples, 0.0)
        else:
            self._warm_up(rules.warmup_samples, rules.warmup_s)
            self.warm = True
        before_j = 0.0 if self.meter is None else self.meter.joules()
        with self.watch or nullcontext():
            self._take(time.perf_counter() + rules.visit_s)
        if self.meter is not None:
            self.energy_j += self.meter.joules() - before_j

    def _take(self, stop_s: float) -> None:
        due_s = 0.0
        while True:
            if self.reference is not None and time.perf_counter() >= due_s:
                self.reference_s += self.reference.seconds()
                due_s = time.perf_counter() + EVERY_S
            timing = self.query()
            self.samples_s.append(timing.seconds)
            for name, seconds in timing.stages_s.items():
                self.stages_s[name].append(seconds)
            if time.perf_counter() >= stop_s:
                return

    def _warm_up(self, samples: int, duration_s: float) -> None:
        started_s = time.perf_counter()
        stop_s, latest_s = started_s + duration_s, started_s + self.rules.limit_s
        done = 0
        while done < samples or time.perf_counter() < stop_s:
            self.query()
            done += 1
            if time.perf_counter() >= latest_s:  # queries of seconds: no longer than what is measured after it
                return


def sample_in_turns(
    samplers: Sequence[Sampler],
    console: Console = SILENT,
    title: str = "measuring",
    *,
    after_turn: Callable[[], None] = lambda: None,
) -> None:
    """Visit the samplers in turn until each one is finished.

    Rows that are compared with each other are measured side by side: a change of clock frequency or a
    neighbour's load falls on all of them, not on the one that happened to run then. A row whose query fails
    keeps the samples that it has and is not visited again. `after_turn` is called between the turns.
    """
    at_most_s = sum(sampler.rules.limit_s for sampler in samplers)
    with console.progress(title, round(at_most_s), "s") as meter:
        shown_s, waiting = 0, list(samplers)
        while waiting:
            for sampler in waiting:
                try:
                    sampler.visit()
                except ClipEdgeError as problem:
                    sampler.failure = problem.what
                except Exception as problem:  # an engine's own error is this row's, not the others'
                    sampler.failure = f"unexpected {type(problem).__name__}: {problem}"
                used_s = round(sum(sampler.used_s for sampler in samplers))
                meter.advance(used_s - shown_s)
                shown_s = used_s
            waiting = [sampler for sampler in waiting if not (sampler.finished or sampler.failure)]
            after_turn()
