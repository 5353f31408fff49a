"""The contrastive losses against their formulas, open_clip's implementation, and themselves in parts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clip_edge.distill.losses.contrastive import clip_loss, sigmoid_loss

SCALE = torch.tensor(14.0)
BIAS = torch.tensor(-10.0)


def pairs(count: int = 12, dim: int = 8) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(count, dim, generator=source), dim=-1) for _ in range(2))
    return image, text


def test_clip_loss_is_that_of_open_clip() -> None:
    from open_clip.loss import ClipLoss

    image, text = pairs()
    expected = ClipLoss()(image, text, SCALE)
    torch.testing.assert_close(clip_loss(image, text, SCALE)["contrastive_loss"], expected)


def test_sigmoid_loss_is_that_of_open_clip() -> None:
    from open_clip.loss import SigLipLoss

    image, text = pairs()
    expected = SigLipLoss()(image, text, SCALE, BIAS)
    torch.testing.assert_close(sigmoid_loss(image, text, SCALE, BIAS)["contrastive_loss"], expected)


def test_embeddings_that_say_nothing_cost_the_logarithm_of_the_batch() -> None:
    same = F.normalize(torch.ones(16, 4), dim=-1)
    assert clip_loss(same, same, SCALE)["contrastive_loss"].item() == pytest.approx(math.log(16), rel=1e-6)


def test_perfect_embeddings_cost_nothing() -> None:
    perfect = torch.eye(16)
    assert clip_loss(perfect, perfect, torch.tensor(100.0))["contrastive_loss"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", [clip_loss, sigmoid_loss])
def test_the_mean_over_equal_shares_is_the_whole(loss) -> None:
    image, text = pairs()
    whole = loss(image, text, SCALE, BIAS)["contrastive_loss"]
    shares = [loss(image, text, SCALE, BIAS, rows=slice(i, i + 4))["contrastive_loss"] for i in (0, 4, 8)]
    torch.testing.assert_close(torch.stack(shares).mean(), whole)


@pytest.mark.parametrize("loss", [clip_loss, sigmoid_loss])
def test_the_order_of_the_batch_does_not_matter(loss) -> None:
    image, text = pairs()
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(1))
    mixed = loss(image[order], text[order], SCALE, BIAS)["contrastive_loss"]
    torch.testing.assert_close(mixed, loss(image, text, SCALE, BIAS)["contrastive_loss"])


@pytest.mark.parametrize("loss", [clip_loss, sigmoid_loss])
def test_gradients_are_those_of_the_formula(loss) -> None:
    image, text = (tensor.double().requires_grad_() for tensor in pairs(5, 3))
    scale, bias = SCALE.double().requires_grad_(), BIAS.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda *args: loss(*args)["contrastive_loss"], (image, text, scale, bias))


def test_sigmoid_loss_without_a_bias_is_refused() -> None:
    image, text = pairs()
    with pytest.raises(ValueError, match="needs a logit bias"):
        sigmoid_loss(image, text, SCALE, None)
