"""Ranks, recalls and intervals against hand-computed cases and a naive implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_edge.numerics import (
    TIE,
    TOLERANCES,
    clustered,
    cosine_rows,
    ranks,
    top_k,
    unit_rows,
    wilson,
)


def floats(rows: object) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def pairs_of(*pairs: tuple[int, int]) -> np.ndarray:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def test_cosine_of_each_row_with_its_partner():
    a = floats([[1, 0], [1, 1], [0, 0], [3, 4]])
    b = floats([[1, 0], [1, 0], [1, 0], [-3, -4]])
    np.testing.assert_allclose(cosine_rows(a, b), [1, math.sqrt(0.5), 0, -1], atol=1e-12)


def test_cosine_with_nan_is_nan_and_passes_no_tolerance():
    cosine = cosine_rows(floats([[np.nan, 1]]), floats([[1, 1]]))
    assert np.isnan(cosine[0])
    assert not cosine[0] >= TOLERANCES["int4"].min_cosine


def test_cosine_needs_partners():
    with pytest.raises(ValueError, match=r"one shape \(N, D\) expected; found \(1, 2\) and \(2, 2\)"):
        cosine_rows(np.zeros((1, 2), np.float32), np.zeros((2, 2), np.float32))


def test_unit_rows_have_length_one_and_zero_stays_zero():
    rows = unit_rows(floats([[3, 4], [0, 0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]])
    assert rows.dtype == np.float32


def test_top_k_is_best_first_and_equal_scores_keep_their_order():
    scores = floats([[1, 3, 3, 2], [0, 0, 0, 0]])
    assert top_k(scores, 3).tolist() == [[1, 2, 3], [0, 1, 2]]
    assert top_k(scores, 9).shape == (2, 4)


def test_ranks_by_hand():
    #                 candidate 0, 1, 2 score   query 0: .9 .5 .1   query 1: .1 .2 .3   query 2: not asked
    candidates = np.eye(3, dtype=np.float32)
    queries = floats([[0.9, 0.5, 0.1], [0.1, 0.2, 0.3], [1, 1, 1]])
    asked, places = ranks(queries, candidates, pairs_of((1, 0), (0, 1), (1, 1)))
    assert asked.tolist() == [0, 1]
    assert places.tolist() == [2, 2]  # query 1: its better right candidate (1) stands behind candidate 2 alone


def test_embeddings_that_are_all_alike_get_the_last_place():
    alike = np.full((5, 4), 0.5, dtype=np.float32)
    _, places = ranks(alike, alike, np.stack([np.arange(5)] * 2, axis=1))
    assert places.tolist() == [5] * 5


def test_a_tie_within_rounding_counts_against_the_query():
    near = floats([[1.0], [1.0 + TIE / 2], [1.0 - 10 * TIE]])
    _, places = ranks(floats([[1.0]]), near, pairs_of((0, 0)))
    assert places.tolist() == [2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_get_the_last_place(value: float):
    queries = floats([[value, 0], [1, 0]])
    candidates = floats([[1, 0], [0, 1], [0, -1]])
    _, places = ranks(queries, candidates, pairs_of((0, 0), (1, 0)))
    assert places.tolist() == [3, 1]
    _, places = ranks(floats([[1, 0]]), floats([[1, 0], [np.nan, 0]]), pairs_of((0, 0)))
    assert places.tolist() == [2]


def naive_ranks(queries: np.ndarray, candidates: np.ndarray, pairs: np.ndarray) -> tuple[list[int], list[int]]:
    asked = sorted({int(query) for query, _ in pairs})
    places = []
    for query in asked:
        right = {int(candidate) for q, candidate in pairs if q == query}
        score = [float(queries[query] @ candidate) for candidate in candidates]
        best = max(score[candidate] for candidate in right)
        places.append(1 + sum(1 for i, value in enumerate(score) if i not in right and value >= best))
    return asked, places


@st.composite
def searches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Small whole numbers: every dot product is exact, and ties are frequent."""
    count = st.integers(1, 9)
    cell = st.integers(-2, 2)
    width = draw(st.integers(1, 3))
    vectors = [
        floats(draw(st.lists(st.lists(cell, min_size=width, max_size=width), min_size=n, max_size=n)))
        for n in (draw(count), draw(count))
    ]
    pair = st.tuples(st.integers(0, len(vectors[0]) - 1), st.integers(0, len(vectors[1]) - 1))
    return vectors[0], vectors[1], pairs_of(*draw(st.lists(pair, max_size=12)))


@given(searches(), st.integers(1, 200))
def test_ranks_equal_the_naive_ones_whatever_the_chunk(search: tuple[np.ndarray, ...], chunk_bytes: int):
    asked, places = ranks(*search, chunk_bytes=chunk_bytes)
    assert (asked.tolist(), places.tolist()) == naive_ranks(*search)


# Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_as_published(hits: int, trials: int, low: float, high: float):
    estimate = wilson(hits, trials)
    assert estimate.value == hits / trials
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_in_range(counts: tuple[int, int]):
    estimate = wilson(*counts)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.low < estimate.high


@pytest.mark.parametrize("counts", [(0, 0), (2, 1), (-1, 3)])
def test_wilson_refuses_what_is_no_share(counts: tuple[int, int]):
    with pytest.raises(ValueError, match="hits <= trials"):
        wilson(*counts)


def test_captions_of_one_picture_do_not_narrow_the_interval():
    random = np.random.default_rng(3)
    hit = random.random(200) < 0.7
    alone = clustered(hit, np.arange(200))
    repeated = clustered(np.repeat(hit, 10), np.repeat(np.arange(200), 10))
    assert (repeated.value, repeated.low, repeated.high) == (alone.value, alone.low, alone.high)
    assert wilson(int(hit.sum()) * 10, 2000).high - alone.value < (alone.high - alone.value) / 2


def test_clustered_interval_is_near_wilson_when_clusters_are_single():
    hit = np.arange(500) < 300
    estimate, reference = clustered(hit, np.arange(500)), wilson(300, 500)
    assert estimate.low == pytest.approx(reference.low, abs=0.01)
    assert estimate.high == pytest.approx(reference.high, abs=0.01)


def test_the_same_answer_everywhere_is_no_certainty():
    estimate = clustered(np.ones(20, bool), np.repeat(np.arange(10), 2))
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(0.722467, abs=2e-6)  # Wilson for 10 of 10 pictures, not 20 of 20


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30))
def test_clustered_interval_holds_the_share(answers: list[tuple[bool, int]]):
    hits = np.array([hit for hit, _ in answers])
    estimate = clustered(hits, np.array([cluster for _, cluster in answers]), draws=50)
    assert estimate.value == pytest.approx(hits.mean())
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_clustered_interval_is_the_same_every_time():
    hits, clusters = np.random.default_rng(0).random(60) < 0.3, np.arange(60) // 4
    assert clustered(hits, clusters) == clustered(hits, clusters)
    assert clustered(hits, clusters) != clustered(hits, clusters, seed=1, draws=37)


def test_clustered_refuses_nothing():
    with pytest.raises(ValueError, match="at least one"):
        clustered(np.array([], bool), np.array([], np.int64))


def test_tolerances_fall_with_the_precision_and_say_why():
    assert {name: entry.min_cosine for name, entry in TOLERANCES.items()} == {
        "fp32": 0.9999,
        "fp16": 0.999,
        "int8": 0.99,
        "w8a8": 0.99,
        "pal6": 0.99,
        "fp8": 0.97,
        "int4": 0.97,
        "pal4": 0.97,
    }
    assert all(len(entry.reason) > 20 for entry in TOLERANCES.values())
