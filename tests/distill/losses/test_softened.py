"""Softened labels: rows sum to one, alpha 0 is CLIP, similar negatives get more."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from clip_edge.distill.losses.contrastive import clip_loss
from clip_edge.distill.losses.softened import ramp, softened_clip_loss, softened_labels
from clip_edge.distill.recipes.lightclip import SoftenSettings

WEIGHTINGS = ("similarity", "uniform", "intra_modal")


def units(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


@given(
    rows=st.integers(1, 6),
    extra=st.integers(0, 6),
    alpha=st.floats(0, 0.99),
    temperature=st.floats(0.01, 100),
    seed=st.integers(0, 100),
)
def test_rows_sum_to_one(rows: int, extra: int, alpha: float, temperature: float, seed: int) -> None:
    similarity = torch.randn(rows, rows + extra, generator=torch.Generator().manual_seed(seed))
    labels = softened_labels(similarity, torch.arange(rows), alpha, temperature)
    assert torch.allclose(labels.sum(1), torch.ones(rows), atol=1e-5)
    assert (labels >= 0).all()
    if rows + extra > 1:
        assert torch.allclose(labels.diagonal(), torch.full((rows,), 1 - alpha), atol=1e-6)


def test_similar_negatives_get_more_and_the_labels_no_gradient() -> None:
    similarity = torch.tensor([[0.9, 0.5, 0.1, -0.3]], requires_grad=True)
    labels = softened_labels(similarity, torch.tensor([0]), 0.2, 0.1)
    assert not labels.requires_grad
    assert labels[0, 1] > labels[0, 2] > labels[0, 3] > 0
    expected = 0.2 * torch.softmax(torch.tensor([5.0, 1.0, -3.0]), 0)
    assert torch.allclose(labels[0, 1:], expected, atol=1e-6)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_alpha_zero_is_clip_exactly(weighting: str) -> None:
    image, text, scale = units(6, 0), units(6, 1), torch.tensor(10.0)
    settings = SoftenSettings(weighting=weighting)  # type: ignore[arg-type]
    for rows in (slice(None), slice(2, 4)):
        soft = softened_clip_loss(image, text, scale, alpha=0.0, settings=settings, rows=rows)
        assert torch.equal(soft, clip_loss(image, text, scale, rows=rows)["contrastive_loss"])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_shares_of_processes_average_to_the_whole(weighting: str) -> None:
    image, text, scale = units(6, 0), units(6, 1), torch.tensor(10.0)
    settings = SoftenSettings(weighting=weighting)  # type: ignore[arg-type]
    parts = [
        softened_clip_loss(image, text, scale, alpha=0.2, settings=settings, rows=rows)
        for rows in (slice(0, 3), slice(3, 6))
    ]
    whole = softened_clip_loss(image, text, scale, alpha=0.2, settings=settings)
    assert torch.allclose(torch.stack(parts).mean(), whole, atol=1e-6)


def test_a_student_that_has_the_softened_similarities_cannot_do_better() -> None:
    """The gradient vanishes where softmax(s S) equals the labels."""
    labels = softened_labels(torch.zeros(4, 4), torch.arange(4), 0.3, 1.0)
    logits = labels.log().requires_grad_()
    F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-7


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_the_ramp_goes_from_zero_to_one(shape: str) -> None:
    values = [ramp(step, 10, shape) for step in range(-1, 12)]  # type: ignore[arg-type]
    assert values == sorted(values)
    assert values[:2] == [0.0, 0.0]
    assert values[-2:] == [1.0, 1.0]
    assert math.isclose(ramp(5, 10, shape), 0.5)  # type: ignore[arg-type]
