"""Statistics on samples whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_edge.benchmarks import stats


def latencies(seed: int, count: int = 400, factor: float = 1.0) -> list[float]:
    """Skewed samples with slow spells, as a busy machine gives them: a floor, a long tail, neighbours alike."""
    random = np.random.default_rng(seed)
    drift = np.repeat(random.normal(0, 0.004, count // 20 + 1), 20)[:count]
    return list(factor * 0.010 * (1 + drift + random.gamma(2.0, 0.01, count)))


def test_summary_of_known_samples() -> None:
    summary = stats.summarise([i / 1000 for i in range(1, 101)])
    assert summary.p50 == pytest.approx(0.0505)
    assert summary.p90 == pytest.approx(0.0901)
    assert summary.p99 == pytest.approx(0.09901)
    assert summary.mean == pytest.approx(0.0505)
    assert summary.std == pytest.approx(0.029011, rel=1e-4)
    assert (summary.min, summary.max) == (0.001, 0.1)
    assert summary.p50_low < summary.p50 < summary.p50_high


@pytest.mark.parametrize(
    ("count", "p90", "p99"), [(9, False, False), (10, True, False), (99, True, False), (100, True, True)]
)
def test_percentiles_need_samples(count: int, p90: bool, p99: bool) -> None:
    summary = stats.summarise([0.01] * count)
    assert (summary.p90 is not None, summary.p99 is not None) == (p90, p99)


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=300))
def test_interval_holds_the_median_of_the_samples(samples: list[float]) -> None:
    low, high = stats.median_interval(samples)
    assert min(samples) <= low <= high <= max(samples)
    assert low <= float(np.quantile(samples, 0.5, method="higher"))
    assert high >= float(np.quantile(samples, 0.5, method="lower"))


def test_interval_covers_the_true_median_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    true_median = np.log(2.0)
    hits = 0
    for _ in range(1000):
        low, high = stats.median_interval(random.exponential(1.0, 60))
        hits += low <= true_median <= high
    assert 930 <= hits <= 980


def test_outliers_are_named_by_position() -> None:
    samples = latencies(1)
    samples[17] = 0.05
    samples[200] = 0.09
    found = stats.outliers(samples)
    assert {17, 200} <= set(found)
    assert len(found) < 20


def test_equal_samples_have_no_outliers_and_a_lone_one_is_seen() -> None:
    assert stats.outliers([0.01] * 50) == []
    assert stats.outliers([0.01] * 50 + [0.02]) == [50]


def test_rank_test_agrees_with_known_values() -> None:
    # U = 0 of 25, ties corrected normal approximation with continuity: z = 2.5067..., p = 0.01219
    assert stats.rank_test([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == pytest.approx(0.012185, abs=1e-5)
    assert stats.rank_test([1.0] * 10, [1.0] * 12) == 1.0
    assert stats.rank_test([1, 2, 3], [1, 2, 3]) == 1.0


def test_rank_test_rejects_equal_populations_as_rarely_as_it_says() -> None:
    random = np.random.default_rng(3)
    rejected = sum(stats.rank_test(random.gamma(2, 1, 50), random.gamma(2, 1, 50)) < 0.05 for _ in range(1000))
    assert 30 <= rejected <= 70


@pytest.mark.parametrize("seed", range(12))
def test_a_planted_slowdown_of_five_percent_is_caught(seed: int) -> None:
    result = stats.compare(latencies(seed), latencies(seed + 100, factor=1.05))
    assert result.verdict == "slower"
    assert result.ratio == pytest.approx(1.05, abs=0.008)


def test_the_interval_covers_the_planted_ratio() -> None:
    """Slow spells make 400 samples worth about 20, so the 99 % interval covers a little less than it says."""
    results = [stats.compare(latencies(seed), latencies(seed + 500, factor=1.05)) for seed in range(40)]
    assert sum(result.ratio_low <= 1.05 <= result.ratio_high for result in results) >= 36


@pytest.mark.parametrize("seed", range(12))
def test_a_gain_of_five_percent_is_seen(seed: int) -> None:
    assert stats.compare(latencies(seed, factor=1.05), latencies(seed + 100)).verdict == "faster"


@pytest.mark.parametrize("seed", range(20))
def test_no_change_is_not_flagged(seed: int) -> None:
    assert stats.compare(latencies(seed), latencies(seed + 100)).verdict == "same"


@pytest.mark.parametrize("seed", range(3))
def test_a_difference_too_small_to_matter_is_not_flagged(seed: int) -> None:
    assert stats.compare(latencies(seed, 4000), latencies(seed + 100, 4000, factor=1.01)).verdict == "same"


def beside_a_load(seed: int, factor: float = 1.0, pace: float = 1.0) -> tuple[list[float], list[float]]:
    """Queries and the reference load on a machine that is slow half of the time, by up to a half, in long spells."""
    random = np.random.default_rng(seed)
    spells = np.repeat(1 + 0.5 * random.random(16) * (random.random(16) < 0.5), 250) * pace
    queries = factor * 0.002 * spells * (1 + random.gamma(2.0, 0.01, spells.size))
    load = 0.0004 * spells[::8] * (1 + random.gamma(2.0, 0.01, spells.size // 8))
    return list(queries), list(load)


@pytest.mark.parametrize("pace", [0.99, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_reference_load_takes_the_machines_pace_out(seed: int, pace: float) -> None:
    old, load = beside_a_load(seed)
    for factor, verdict in ((1.05, "slower"), (1.0, "same"), (0.95, "faster")):
        new, new_load = beside_a_load(seed + 100, factor, pace)
        found = stats.compare_floors(old, new, load, new_load)
        assert found.verdict == verdict
        assert found.ratio == pytest.approx(factor, abs=0.01)
        assert found.ratio_low <= found.ratio <= found.ratio_high
        assert found.reference_ratio == pytest.approx(pace, rel=0.01)


def test_a_machine_of_another_pace_hides_what_is_small() -> None:
    old, load = beside_a_load(1)
    for factor, verdict in ((1.05, "same"), (1.25, "slower"), (0.75, "faster")):
        new, new_load = beside_a_load(2, factor, 1.3)
        assert stats.compare_floors(old, new, load, new_load).verdict == verdict
    assert stats.least_visible(1.0) == 0.025
    assert stats.least_visible(1.3) == pytest.approx(stats.least_visible(1 / 1.3)) == pytest.approx(0.156, abs=0.001)


def test_the_same_samples_give_the_same_answer() -> None:
    assert stats.compare(latencies(1), latencies(2)) == stats.compare(latencies(1), latencies(2))


def test_stages_add_up_to_about_the_median_even_when_each_query_stumbles_elsewhere() -> None:
    random = np.random.default_rng(5)
    stages = {name: list(0.001 + 0.01 * (random.random(300) < 0.4)) for name in ("decode", "preprocess", "encode")}
    totals = [sum(parts) for parts in zip(*stages.values(), strict=True)]
    assert sum(stats.typical_stages(totals, stages).values()) == pytest.approx(float(np.median(totals)), rel=0.35)
    assert stats.typical_stages([1.0], {"encode": [0.5]}) == {"encode": 0.5}
