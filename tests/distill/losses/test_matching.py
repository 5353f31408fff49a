"""Matchings against SciPy and against each other; padding never takes part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from clip_edge.distill.losses.matching import alignment_loss, match

MATCHINGS = ("relaxed", "sinkhorn", "hungarian")


def cosines(batch: int, patches: int, tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, patches, tokens, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def words(batch: int, tokens: int, count: int) -> torch.Tensor:
    found = torch.zeros(batch, tokens, dtype=torch.bool)
    found[:, 1 : 1 + count] = True
    return found


@pytest.mark.parametrize("matching", MATCHINGS)
@given(patches=st.integers(1, 9), count=st.integers(0, 7), seed=st.integers(0, 50))
@settings(max_examples=30)
def test_only_words_match_and_the_plan_is_a_distribution(matching: str, patches: int, count: int, seed: int) -> None:
    is_word = words(2, 10, count)
    plan = match(cosines(2, patches, 10, seed), is_word, matching)  # type: ignore[arg-type]
    assert torch.isfinite(plan).all()
    assert (plan >= 0).all()
    assert plan.masked_select(~is_word[:, None].expand_as(plan)).abs().sum() == 0
    assert torch.allclose(plan.sum((1, 2)), torch.full((2,), float(count > 0)), atol=1e-5)


def test_hungarian_agrees_with_scipy() -> None:
    scores, is_word = cosines(5, 6, 9, seed=3), words(5, 9, 4)
    plan = match(scores, is_word, "hungarian")
    for one, found in zip(scores.numpy(), plan.numpy(), strict=True):
        rows, columns = linear_sum_assignment(-one[:, 1:5])
        expected = np.zeros((6, 9))
        expected[rows, columns + 1] = 1 / 4
        assert np.allclose(found, expected)


@pytest.mark.parametrize(("patches", "count"), [(6, 4), (4, 4), (3, 5)])
def test_sinkhorn_converges_to_the_hungarian_matching(patches: int, count: int) -> None:
    scores, is_word = cosines(4, patches, 9, seed=1), words(4, 9, count)
    strict = match(scores, is_word, "hungarian")
    far = [
        float((match(scores, is_word, "sinkhorn", temperature=t, steps=10_000) - strict).abs().sum((1, 2)).max())
        for t in (1.0, 0.1, 0.003)
    ]
    assert far[0] > far[1] > far[2]
    assert far[2] < 0.05


def test_relaxed_takes_the_best_patch_of_each_word_and_the_best_word_of_each_patch() -> None:
    scores = torch.tensor([[[9.0, 0.1, 0.8], [9.0, 0.7, 0.2]]])  # two patches; a start token and two words
    plan = match(scores, torch.tensor([[False, True, True]]), "relaxed")
    # Words: the first takes patch 1, the second patch 0; patches: the first takes word 2, the second word 1.
    assert torch.allclose(plan, torch.tensor([[[0.0, 0.0, 0.5], [0.0, 0.5, 0.0]]]))


@pytest.mark.parametrize("matching", MATCHINGS)
def test_the_loss_is_zero_when_each_word_is_its_patch(matching: str) -> None:
    patches = F.normalize(torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    tokens = torch.cat([torch.zeros(1, 1, 16), patches, torch.zeros(1, 2, 16)], 1)
    losses, counts = alignment_loss(patches, tokens, words(1, 7, 4), matching)  # type: ignore[arg-type]
    assert counts.tolist() == [1.0]
    assert float(losses) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("matching", MATCHINGS)
def test_an_empty_caption_counts_nothing_and_gradient_flows_through_words_only(matching: str) -> None:
    patches = F.normalize(torch.randn(2, 4, 8), dim=-1).requires_grad_()
    tokens = F.normalize(torch.randn(2, 5, 8), dim=-1).requires_grad_()
    is_word = torch.tensor([[False, True, True, False, False], [False] * 5])
    losses, counts = alignment_loss(patches, tokens, is_word, matching)  # type: ignore[arg-type]
    assert counts.tolist() == [1.0, 0.0]
    assert float(losses[1].detach()) == 0
    losses.sum().backward()
    assert tokens.grad is not None
    assert patches.grad is not None
    assert tokens.grad[~is_word].abs().sum() == 0
    assert tokens.grad[is_word].abs().sum() > 0
    assert patches.grad[1].abs().sum() == 0
