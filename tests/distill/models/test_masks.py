"""The mask head: shapes, prompts of different length, and a head that learns to outline what it is shown."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clip_edge.distill.models.masks import Attention, MaskHead
from clip_edge.distill.models.spec import MaskSpec
from clip_edge.graphs import BOTTOM_RIGHT, INSIDE, PADDING, TOP_LEFT

SPEC = MaskSpec(width=32, depth=2, heads=2)


def head() -> MaskHead:
    torch.manual_seed(0)
    return MaskHead(SPEC, 8).eval()


@torch.no_grad()
def test_shapes() -> None:
    logits, quality = head()(torch.randn(3, 8, 4, 6), torch.rand(3, 2, 2), torch.tensor([[2, 3], [1, -1], [1, 0]]))
    assert logits.shape == (3, 3, 16, 24)
    assert quality.shape == (3, 3)


@torch.no_grad()
def test_where_a_padded_point_lies_does_not_matter() -> None:
    masks, found = head(), torch.randn(2, 8, 4, 4)
    labels = torch.tensor([[INSIDE, PADDING]]).expand(2, 2)
    points = torch.rand(2, 2, 2)
    elsewhere = points.clone()
    elsewhere[:, 1] = 0.77
    assert torch.equal(masks(found, points, labels)[0], masks(found, elsewhere, labels)[0])


@torch.no_grad()
def test_place_and_kind_of_a_point_matter() -> None:
    masks, found, points = head(), torch.randn(1, 8, 4, 4), torch.rand(1, 2, 2)
    box = masks(found, points, torch.tensor([[TOP_LEFT, BOTTOM_RIGHT]]))[0]
    assert not torch.allclose(box, masks(found, points, torch.tensor([[INSIDE, INSIDE]]))[0])
    assert not torch.allclose(box, masks(found, 1 - points, torch.tensor([[TOP_LEFT, BOTTOM_RIGHT]]))[0])


@torch.no_grad()
def test_a_prompt_does_not_see_another_row() -> None:
    masks, found = head(), torch.randn(2, 8, 4, 4)
    points, labels = torch.rand(2, 2, 2), torch.tensor([[2, 3], [1, -1]])
    both = masks(found, points, labels)[0]
    alone = masks(found[1:], points[1:], labels[1:])[0]
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-5)


def test_the_three_answers_differ() -> None:
    logits = head()(torch.randn(1, 8, 4, 4), torch.rand(1, 1, 2), torch.ones(1, 1, dtype=torch.long))[0]
    assert not torch.allclose(logits[:, 0], logits[:, 1])


def test_it_learns_the_side_that_a_point_names() -> None:
    """Left or right half of a map that looks the same everywhere: only the prompt can tell."""
    masks = head().train()
    found = torch.ones(2, 8, 4, 4)
    points, labels = torch.tensor([[[0.2, 0.5]], [[0.8, 0.5]]]), torch.ones(2, 1, dtype=torch.long)
    wanted = torch.zeros(2, 16, 16)
    wanted[0, :, :8], wanted[1, :, 8:] = 1, 1
    optimizer = torch.optim.Adam(masks.parameters(), 3e-3)
    for _ in range(60):
        logits = masks(found, points, labels)[0][:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((masks(found, points, labels)[0][:, 0] > 0) == (wanted > 0)).float().mean() > 0.95


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 5])
def test_attention_is_torchs_own(length: int) -> None:
    torch.manual_seed(1)
    ours = Attention(16, 4)
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    q, k, v = torch.randn(2, length, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    torch.testing.assert_close(ours(q, k, v), theirs(q, k, v, need_weights=False)[0])
