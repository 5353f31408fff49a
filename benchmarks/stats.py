"""Statistics of latency samples: summary, spread, outliers, when to stop, and whether two runs differ.

Latencies are skewed and come in runs of slow and fast moments, so nothing here assumes a normal
distribution or independent neighbours: medians, order statistics, ranks and a block bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

OUTLIER_SCORE = 3.5  # Iglewicz & Hoaglin 1993: "modified z-scores above 3.5 should be labelled"
CONFIDENCE = 0.99  # a false alarm in a hundred comparisons; a report holds tens of rows
MARGIN = 0.02  # a difference below 2 % is smaller than what a reboot or another link order changes
RESAMPLES = 1000
FLOOR = 0.02  # the quantile at which a machine does what it can: where its neighbours rest, a run repeats itself best
FLOOR_MARGIN = 0.025  # half of the 5 % that the guard promises to find
PACE_DOUBT = 0.5  # of a change of pace: a neighbour that slows the load by 55 % slowed a picture by 35 %
FLOOR_MIN_SAMPLES = 20
SEGMENTS = 16  # of half a second at the default settings: longer than most slow spells
SEED = 0

Verdict = Literal["faster", "slower", "same"]


@dataclass(frozen=True)
class Summary:
    """What a row shows of its samples, in seconds. A percentile is None when too few samples support it."""

    p50: float
    p90: float | None
    p99: float | None
    mean: float
    std: float
    min: float
    max: float
    p50_low: float
    p50_high: float
    jitter: float = 0.0  # the mean step between one query and the next (RFC 3550, section 6.4.1, without its smoothing)


@dataclass(frozen=True)
class Comparison:
    """New against old, with an interval and a p-value.

    With `reference_ratio`, `ratio` is that of the floors after the machine's own pace was divided out, and
    `reference_ratio` that pace (1.1: the machine was a tenth slower); without it, `ratio` is new median / old median.
    """

    ratio: float
    ratio_low: float
    ratio_high: float
    p_value: float
    verdict: Verdict
    reference_ratio: float | None = None


def summarise(samples_s: Sequence[float]) -> Summary:
    """The summary of at least one sample.

    p90 needs 10 samples and p99 needs 100: below that the "percentile" is only the largest sample.
    """
    values = np.asarray(samples_s, dtype=np.float64)
    low, high = median_interval(values)
    return Summary(
        p50=float(np.median(values)),
        p90=float(np.quantile(values, 0.90)) if len(values) >= 10 else None,
        p99=float(np.quantile(values, 0.99)) if len(values) >= 100 else None,
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        min=float(values.min()),
        max=float(values.max()),
        p50_low=low,
        p50_high=high,
        jitter=float(np.abs(np.diff(values)).mean()) if len(values) > 1 else 0.0,
    )


def typical_stages(samples_s: Sequence[float], stages_s: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean of each stage over the middle half of the queries, so that the stages add up to about the median.

    Medians of single stages would not: on a busy machine each query loses its time in another stage.
    """
    order = np.argsort(np.asarray(samples_s), kind="stable")
    quarter = len(order) // 4
    middle = order[quarter : len(order) - quarter]
    return {name: float(np.asarray(seconds)[middle].mean()) for name, seconds in stages_s.items()}


def median_interval(samples: Sequence[float] | Floats, confidence: float = 0.95) -> tuple[float, float]:
    """An interval for the median from order statistics, free of any assumed distribution.

    The number of samples below the true median is Binomial(n, 1/2); its normal approximation picks the two ranks.
    With fewer than six samples no pair of ranks reaches 95 %, and the whole range is returned.
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    count = len(ordered)
    half_width = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - half_width))
    high = min(count - 1, math.ceil(count / 2 + half_width) - 1)
    return float(ordered[low]), float(ordered[max(low, high)])


def outliers(samples: Sequence[float]) -> list[int]:
    """The positions of samples whose modified z-score is above 3.5 (Iglewicz & Hoaglin 1993)."""
    values = np.asarray(samples, dtype=np.float64)
    distance = np.abs(values - np.median(values))
    scale = 1.4826 * float(np.median(distance))
    if scale == 0.0:  # more than half of the samples are equal: the mean deviation is the fallback of the same authors
        scale = 1.2533 * float(distance.mean())
    if scale == 0.0:
        return []
    return [int(i) for i in np.flatnonzero(distance / scale > OUTLIER_SCORE)]


def rank_test(old: Sequence[float] | Floats, new: Sequence[float] | Floats) -> float:
    """The two-sided p-value of the Mann-Whitney U test (normal approximation, corrected for ties)."""
    pooled = np.concatenate([np.asarray(old, dtype=np.float64), np.asarray(new, dtype=np.float64)])
    n_old, n_new, n = len(old), len(new), len(pooled)
    _, group, counts = np.unique(pooled, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(counts)
    ranks = (last_rank - (counts - 1) / 2)[group]  # equal values share their mean rank
    u = float(ranks[:n_old].sum()) - n_old * (n_old + 1) / 2
    ties = float((counts.astype(np.float64) ** 3 - counts).sum()) / (n * (n - 1))
    variance = n_old * n_new / 12 * (n + 1 - ties)
    if variance <= 0.0:
        return 1.0
    z = (abs(u - n_old * n_new / 2) - 0.5) / math.sqrt(variance)
    return min(1.0, 2 * (1 - NormalDist().cdf(max(z, 0.0))))


def compare(old: Sequence[float] | Floats, new: Sequence[float] | Floats) -> Comparison:
    """Whether `new` is faster, slower or the same.

    A difference counts when the rank test rejects equality *and* the whole interval of the median ratio
    lies outside ±2 %: significant and large enough to matter.
    """
    old_values, new_values = np.asarray(old, dtype=np.float64), np.asarray(new, dtype=np.float64)
    random = np.random.default_rng(SEED)
    ratios = bootstrap_medians(new_values, random) / bootstrap_medians(old_values, random)
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(bound) for bound in np.quantile(ratios, [tail, 1 - tail]))
    p_value = rank_test(old, new)
    verdict: Verdict = "same"
    if p_value < 1 - CONFIDENCE and low > 1 + MARGIN:
        verdict = "slower"
    elif p_value < 1 - CONFIDENCE and high < 1 - MARGIN:
        verdict = "faster"
    return Comparison(float(np.median(new_values) / np.median(old_values)), low, high, p_value, verdict)


def compare_floors(
    old: Sequence[float] | Floats,
    new: Sequence[float] | Floats,
    old_reference: Sequence[float] | Floats,
    new_reference: Sequence[float] | Floats,
) -> Comparison:
    """Whether `new` is faster, slower or the same, each over the reference load that ran between its samples (ours).

    The 2 % quantile is compared: on a shared machine the median follows the neighbours. A difference counts when it
    is above 2.5 %, and half of the change of the machine's pace on top, since no load feels all that the row feels;
    and when its 99 % interval, from resampled segments of the run, leaves out none.
    """
    random = np.random.default_rng(SEED)
    new_s, new_load_s, old_s, old_load_s = (
        np.asarray(one, dtype=np.float64) for one in (new, new_reference, old, old_reference)
    )
    new_floor, new_pace, old_floor, old_pace = (
        float(np.quantile(one, FLOOR)) for one in (new_s, new_load_s, old_s, old_load_s)
    )
    ratios = _paced_floors(new_s, new_load_s, random) / _paced_floors(old_s, old_load_s, random)
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(bound) for bound in np.quantile(ratios, [tail, 1 - tail]))
    beyond = min(int((ratios <= 1).sum()), int((ratios >= 1).sum()))
    ratio = (new_floor / new_pace) / (old_floor / old_pace)
    verdict: Verdict = "same"
    margin = least_visible(new_pace / old_pace)
    if low > 1 and ratio > 1 + margin:
        verdict = "slower"
    elif high < 1 and ratio < 1 / (1 + margin):
        verdict = "faster"
    p_value = min(1.0, 2 * (beyond + 1) / (RESAMPLES + 1))
    return Comparison(ratio, low, high, p_value, verdict, new_pace / old_pace)


def least_visible(reference_ratio: float) -> float:
    """The least difference that counts when the machine's pace has changed by this factor."""
    return FLOOR_MARGIN + PACE_DOUBT * abs(math.log(reference_ratio))


def _paced_floors(samples: Floats, reference: Floats, random: np.random.Generator) -> Floats:
    """(R,) the floor of the samples over that of the reference, in runs made of the same segments of both."""
    parts, paces = np.array_split(samples, SEGMENTS), np.array_split(reference, SEGMENTS)
    found = []
    for _ in range(RESAMPLES):
        picked = random.integers(0, SEGMENTS, SEGMENTS)
        floor = np.quantile(np.concatenate([parts[i] for i in picked]), FLOOR)
        found.append(floor / np.quantile(np.concatenate([paces[i] for i in picked]), FLOOR))
    return np.array(found)


def bootstrap_medians(values: Floats, random: np.random.Generator) -> Floats:
    """Medians of 1,000 resamples drawn in blocks of neighbours (Künsch 1989), because neighbours are alike."""
    count = len(values)
    block = max(1, round(math.sqrt(count)))  # longer than the optimum for weak dependence: slow spells last
    blocks = math.ceil(count / block)
    medians = []
    at_once = max(1, 2_000_000 // count)  # resamples held in memory at the same time
    for done in range(0, RESAMPLES, at_once):
        starts = random.integers(0, count, (min(at_once, RESAMPLES - done), blocks, 1))
        # Circular, so that every sample is as likely: (R, blocks, 1) -> (R, count).
        picked = (starts + np.arange(block)).reshape(len(starts), -1)[:, :count] % count
        medians.append(np.median(values[picked], axis=1))
    return np.concatenate(medians)
