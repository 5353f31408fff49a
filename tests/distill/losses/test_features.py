"""Distances between features: 0 for the teacher itself, blind to padding, any stride against any other."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clip_edge.distill.losses.features import embedding_loss, map_loss, token_loss


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("standardise", [True, False])
def test_the_teacher_itself_is_at_distance_0(standardise: bool) -> None:
    level, words, unit = draw(2, 5, 4, 4), draw(2, 6, 5), F.normalize(draw(2, 8), dim=-1)
    reached = torch.ones(2, 6, dtype=torch.bool)
    assert map_loss(level, level, standardise=standardise).tolist() == [0, 0]
    assert token_loss(words, words, reached, standardise=standardise).tolist() == [0, 0]
    assert embedding_loss(unit, unit).tolist() == [0, 0]


@pytest.mark.parametrize("places", [(1, 1), (2, 3), (4, 4), (7, 5)])
def test_maps_of_any_stride_are_compared_at_the_places_of_the_teacher(places: tuple[int, int]) -> None:
    found = map_loss(draw(3, 5, *places), draw(3, 5, 4, 4, seed=1))
    assert found.shape == (3,)
    assert (found > 0).all()


def test_a_map_that_is_the_same_everywhere_may_have_any_size() -> None:
    small, large = draw(2, 5, 1, 1).expand(2, 5, 2, 2), draw(2, 5, 1, 1).expand(2, 5, 6, 6)
    torch.testing.assert_close(map_loss(small, large, standardise=False), torch.zeros(2), atol=1e-6, rtol=0)


def test_padding_contributes_nothing_and_receives_no_gradient() -> None:
    student, teacher = draw(2, 6, 5).requires_grad_(), draw(2, 6, 5, seed=1)
    reached = torch.tensor([[True] * 3 + [False] * 3, [True] * 6])
    found = token_loss(student, teacher, reached)
    other = teacher.clone()
    other[0, 3:] = 1e6
    torch.testing.assert_close(token_loss(student, other, reached), found, rtol=0, atol=0)
    torch.testing.assert_close(found[0], token_loss(student[:1, :3], teacher[:1, :3], reached[:1, :3])[0])
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert not student.grad[0, 3:].any()
    assert student.grad[1].any()


def test_a_row_of_nothing_but_padding_is_0() -> None:
    assert token_loss(draw(1, 4, 5), draw(1, 4, 5, seed=1), torch.zeros(1, 4, dtype=torch.bool)).tolist() == [0]


def test_embeddings_are_compared_by_their_cosine() -> None:
    a, b = F.normalize(draw(4, 64), dim=-1), F.normalize(draw(4, 64, seed=1), dim=-1)
    torch.testing.assert_close(embedding_loss(a, b), 1 - (a * b).sum(-1))
