"""Soak: what the curve and its two ends say about synthetic minutes, and that the watch really looks."""

import numpy as np

from clip_edge.benchmarks.soak import POINTS, Watch, _State, summarise_soak


def states(count: int, growth: int = 0) -> list[_State]:
    return [_State(float(i), 100_000_000 + i * growth, 50.0 + i, 2e9) for i in range(count)]


def test_a_device_that_throttles_is_told_from_a_steady_one() -> None:
    noise = np.random.default_rng(0).gamma(2.0, 0.01, 4000) + 1.0
    steady = summarise_soak(0.004 * noise, states(16))
    assert steady.verdict == "same"
    assert len(steady.points) <= POINTS + 1
    hot = noise.copy()
    hot[2000:] *= 1.4
    throttled = summarise_soak(0.004 * hot, states(20))
    assert throttled.verdict == "slower"
    assert 1.35 < throttled.slowdown < 1.45
    assert throttled.points[-1].p50_s > 1.3 * throttled.points[0].p50_s
    assert throttled.points[-1].temperature_c is not None


def test_memory_that_grows_is_in_the_curve() -> None:
    found = summarise_soak([0.01] * 2000, states(20, growth=1_000_000))
    assert found.rss_growth_bytes is not None
    assert 12e6 < found.rss_growth_bytes < 20e6
    assert summarise_soak([0.01] * 2000, states(20)).rss_growth_bytes == 0


def test_the_watch_looks_at_the_start_and_at_the_end() -> None:
    with Watch() as watch:
        pass
    assert len(watch.states) >= 2
    assert all(state.rss_bytes is None or state.rss_bytes > 1e6 for state in watch.states)


def test_one_query_is_a_curve_too() -> None:
    assert len(summarise_soak([0.5], states(1)).points) == 1
