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
    """New against old: `ratio` is new median / old median, with its interval and a rank test."""

    ratio: float
    ratio_low: float
    ratio_high: float
    p_value: float
    verdict: Verdict


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


def rank_test(old: Sequence[float], new: Sequence[float]) -> float:
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


def compare(old: Sequence[float], new: Sequence[float]) -> Comparison:
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
