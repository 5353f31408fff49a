"""Sampling: warm-up, turns, when it stops, and what the harness itself costs."""

import time
from statistics import median

import pytest

from clip_edge.benchmarks.reference import EVERY_S, PASSES, ReferenceLoad
from clip_edge.benchmarks.scenarios import Rules, Sampler, Timing, sample_in_turns, timed

QUICK = Rules(
    warmup_s=0.0, warmup_samples=3, min_duration_s=0.0, min_samples=20, max_duration_s=0.5, precision=1.0, visit_s=0.0
)


class Work:
    """A query that spins for `seconds` and counts its calls."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.calls = seconds, 0

    def __call__(self) -> dict[str, float]:
        self.calls += 1
        stop = time.perf_counter() + self.seconds
        while time.perf_counter() < stop:
            pass
        return {"encode": self.seconds}


def test_warm_up_is_not_counted() -> None:
    work = Work()
    sampler = Sampler(timed(work), QUICK)
    sampler.visit()
    assert (work.calls, len(sampler.samples_s)) == (4, 1)
    sampler.visit()
    assert (work.calls, len(sampler.samples_s)) == (6, 2)  # one call to refill the caches, one sample


def test_warm_up_is_no_longer_than_what_is_measured() -> None:
    work = Work(0.3)
    Sampler(timed(work), QUICK).visit()
    assert work.calls == 3  # two of the three to warm up take more than the row's half second; one is a sample


def test_rows_take_turns_until_each_is_finished() -> None:
    samplers = [Sampler(timed(Work(0.0005)), QUICK), Sampler(timed(Work(0.001)), QUICK)]
    sample_in_turns(samplers)
    assert all(len(sampler.samples_s) >= 20 for sampler in samplers)
    assert abs(len(samplers[0].samples_s) - len(samplers[1].samples_s)) <= 5
    assert all(sampler.finished for sampler in samplers)
    assert min(samplers[1].samples_s) >= 0.001  # a busy machine makes a query longer, never shorter
    assert len(samplers[0].stages_s["encode"]) == len(samplers[0].samples_s)


def test_the_reference_load_runs_between_the_queries_and_outside_their_clock() -> None:
    sampler = Sampler(timed(Work(0.001)), Rules(0.0, 0, 0, 0.3, 1, 0.3, 1.0, 0.1), reference=ReferenceLoad())
    sample_in_turns([sampler])
    assert 3 * PASSES <= len(sampler.reference_s) <= 0.4 / EVERY_S * PASSES + 4 * PASSES
    assert median(sampler.samples_s) == pytest.approx(0.001, rel=0.05)
    assert all(seconds > 0 for seconds in sampler.reference_s)


def test_an_engine_that_fails_in_its_own_way_is_one_row_less() -> None:
    def breaks() -> Timing:
        raise RuntimeError("no such kernel")

    samplers = [Sampler(breaks, QUICK), Sampler(timed(Work(0.0005)), QUICK)]
    sample_in_turns(samplers)
    assert samplers[0].failure == "unexpected RuntimeError: no such kernel"
    assert samplers[1].finished


def test_an_unsteady_query_is_measured_until_the_time_is_up() -> None:
    durations_s = iter([0.001, 0.02] * 1000)
    sampler = Sampler(lambda: Timing(next(durations_s), {}), Rules(0.0, 0, 0, 0.0, 5, 0.3, 0.001, 0.0))
    sample_in_turns([sampler])
    assert 0.3 <= sampler.duration_s < 0.33


def test_a_steady_query_stops_early() -> None:
    sampler = Sampler(lambda: Timing(0.001, {}), Rules(0.0, 0, 0, 0.05, 20, 30.0, 0.05, 0.0))
    sample_in_turns([sampler])
    assert sampler.duration_s == pytest.approx(0.05)
    assert sampler.uncertainty <= 0.05


def test_a_query_slower_than_the_limit_is_measured_once() -> None:
    sampler = Sampler(timed(Work(0.02)), Rules(0.0, 0, 0, 0.0, 100, 0.01, 0.01, 0.0))
    sample_in_turns([sampler])
    assert len(sampler.samples_s) == 1


def test_the_harness_costs_microseconds_against_a_bare_loop() -> None:
    """What the sampler adds to a query, measured against the same query in a bare loop."""
    stages = {"decode": 0.0, "preprocess": 0.0, "encode": 0.0}

    def query() -> dict[str, float]:
        return stages

    def bare(count: int) -> float:
        samples = []
        for _ in range(count):
            started = time.perf_counter()
            query()
            samples.append(time.perf_counter() - started)
        return median(samples)

    sampler = Sampler(timed(query), Rules(0.0, 0, 0, 0.0, 2000, 1.0, 1.0, 0.05))
    sample_in_turns([sampler])
    added_s = median(sampler.samples_s) - bare(2000)
    assert added_s < 5e-6  # a query of the smallest text tower takes about 300 µs
