"""What is measured on embeddings: cosines, ranks, intervals, and how far a lower precision may drift."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Z_95 = 1.959964  # the 97.5 % point of the normal distribution: two-sided 95 %
TIE = 1e-6  # two scores nearer than this are equal: an fp32 dot product of unit vectors rounds by up to 5e-7
CHUNK_BYTES = 64 * 1024 * 1024  # scores held at once, so that a million candidates still fit


@dataclass(frozen=True)
class Tolerance:
    """The smallest cosine to the fp32 reference that a precision may have on any golden row, and why."""

    min_cosine: float
    reason: str


TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(0.9999, "only the order of additions differs: 1e-6 is usual, 1e-4 shows a wrong operation"),
    "fp16": Tolerance(0.999, "a 10-bit mantissa drifts by about 1e-4 over fifty layers; more is a lost range"),
    "fp8": Tolerance(0.97, "a 3-bit mantissa rounds each value by up to 6 %, which averages out only in part"),
    "int8": Tolerance(0.99, "neighbours of a query stay in place above 0.99; below, top-1 answers begin to change"),
    "w8a8": Tolerance(0.99, "as int8, with activations in 8 bits too where a target tells the two apart"),
    "pal6": Tolerance(0.99, "64 values for each group of weights hold as much as 8 linear bits do"),
    "pal4": Tolerance(0.97, "16 values for each group of weights: as int4"),
    "int4": Tolerance(0.97, "a 4-bit weight is off by 3 % of its group's range; what passes still keeps most top-1"),
}


def unit_rows(rows: Floats) -> Floats:
    """(N, D) -> (N, D) of length one; a row of zeros stays zero."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    unit: Floats = (rows / np.where(lengths == 0, 1.0, lengths)).astype(np.float32)
    return unit


def cosine_rows(a: Floats, b: Floats) -> Doubles:
    """The cosine of each row of `a` with the same row of `b`: (N, D), (N, D) -> (N,) in float64.

    A row of zeros has cosine 0 with everything; a row with NaN gives NaN, which passes no tolerance.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"two arrays of one shape (N, D) expected; found {a.shape} and {b.shape}")
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    cosines: Doubles = np.einsum("nd,nd->n", x, y) / np.where(lengths == 0, 1.0, lengths)
    return cosines


def top_k(scores: Floats, k: int) -> Ints:
    """The columns of the `k` largest scores of each row, best first: (N, C) -> (N, min(k, C)).

    Equal scores come in the order of their columns, so that a listing is the same on every machine.
    """
    order: Ints = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order


def ranks(queries: Floats, candidates: Floats, pairs: Ints, *, chunk_bytes: int = CHUNK_BYTES) -> tuple[Ints, Ints]:
    """The place of the best right candidate of each query when candidates are sorted by dot product.

    A wrong candidate that scores the same (within `TIE`), or a score that is NaN, stands before the right one:
    embeddings that are all alike get the last place, never a hit for free.

    Args:
        queries: (Q, D). candidates: (C, D).
        pairs: (P, 2) rows of query index, index of a candidate that is right for it.

    Returns:
        The queries that have a right candidate, in order (A,), and their ranks, 1 is best (A,).
    """
    queries, candidates = np.asarray(queries, np.float32), np.asarray(candidates, np.float32)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    asked: Ints = np.unique(pairs[:, 0])
    places = np.zeros(len(queries), dtype=np.int64)
    step = max(1, chunk_bytes // (8 * max(1, len(candidates))))  # a score takes 4 bytes and its comparison 1
    for start in range(0, len(queries), step):
        first, last = np.searchsorted(pairs[:, 0], (start, start + step))
        rows, columns = pairs[first:last, 0] - start, pairs[first:last, 1]
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity get the last place
            scores = queries[start : start + step] @ candidates.T  # (step, C)
            best = np.full(len(scores), -np.inf, dtype=np.float32)
            np.maximum.at(best, rows, scores[rows, columns])
            before = ~(scores < best[:, None] - np.float32(TIE))
        before[rows, columns] = False
        places[start : start + step] = 1 + before.sum(axis=1)
    return asked, places[asked]


@dataclass(frozen=True)
class Estimate:
    """A share between 0 and 1 with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(hits: int, trials: int, z: float = Z_95) -> Estimate:
    """The share hits/trials with Wilson's score interval (Wilson 1927, eq. 4): right for few trials and near 0 and 1.

    Raises:
        ValueError: no trials, or more hits than trials.
    """
    if not 0 <= hits <= trials or trials == 0:
        raise ValueError(f"0 <= hits <= trials and trials > 0 expected; found {hits} of {trials}")
    share = hits / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Estimate(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def clustered(hits: npt.NDArray[np.bool_], clusters: Ints, *, draws: int = 1000, seed: int = 0) -> Estimate:
    """The share of `hits` (N,) with a percentile bootstrap over `clusters` (N,), such as the picture of each caption.

    Answers about one picture go right or wrong together, so whole pictures are drawn (cluster bootstrap, Field and
    Welsh 2007). When every cluster has the same share there is nothing to draw: Wilson over the clusters is wider
    and says how little was seen.
    """
    if len(hits) == 0 or hits.shape != clusters.shape:
        raise ValueError(f"as many hits as clusters, and at least one, expected; found {hits.shape}, {clusters.shape}")
    _, member = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(member).astype(np.float64)
    sums = np.bincount(member, weights=hits.astype(np.float64))
    count, share = len(sizes), float(sums.sum() / sizes.sum())
    if np.all(sums * sizes[0] == sums[0] * sizes):
        edge = wilson(round(share * count), count)
        return Estimate(share, min(share, edge.low), max(share, edge.high))
    random = np.random.default_rng(seed)
    shares = np.empty(draws)
    for i in range(draws):
        drawn = random.integers(0, count, count)
        shares[i] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(shares, (0.025, 0.975))
    return Estimate(share, min(share, float(low)), max(share, float(high)))
