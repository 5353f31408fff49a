"""Gradient caching equals the plain backward pass."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_edge.distill import gradcache
from clip_edge.distill.losses.contrastive import clip_loss


@dataclass(frozen=True)
class Pair:
    image: Tensor
    text: Tensor


class Towers(nn.Module):
    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(6, 16), middle, nn.GELU(), nn.Linear(16, 8))
        self.text = nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.Linear(16, 8))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def embed(self, batch: Pair) -> tuple[Tensor, Tensor]:
        return F.normalize(self.image(batch.image), dim=-1), F.normalize(self.text(batch.text), dim=-1)

    def loss(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        return clip_loss(image, text, self.logit_scale.exp()) | {"accuracy": torch.tensor(0.5)}


def towers(middle: nn.Module) -> tuple[Towers, Pair]:
    torch.manual_seed(0)
    return Towers(middle), Pair(torch.randn(22, 6), torch.randn(22, 5))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk_size", [1, 5, 22, 100])
def test_cached_gradients_are_the_plain_ones(chunk_size: int) -> None:
    model, batch = towers(nn.LayerNorm(16))
    plain_terms = gradcache.backward(batch, model.embed, model.loss, lambda loss: loss)
    plain = gradients(model)
    model.zero_grad()
    terms = gradcache.cached_backward(
        batch, model.embed, model.loss, lambda loss: loss, chunk_size=chunk_size, model=model
    )
    torch.testing.assert_close(terms, plain_terms, rtol=0, atol=1e-6)  # fp32 sums in another order
    torch.testing.assert_close(gradients(model), plain, rtol=0, atol=1e-6)


def test_dropout_is_replayed_in_the_second_pass() -> None:
    model, batch = towers(nn.Dropout(0.5))
    seen: list[Tensor] = []

    def embed(chunk: Pair) -> tuple[Tensor, ...]:
        found = model.embed(chunk)
        seen.append(found[0].detach())
        return found

    torch.manual_seed(1)
    gradcache.cached_backward(batch, embed, model.loss, lambda loss: loss, chunk_size=11, model=model)
    after = torch.rand(1)
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])
    torch.manual_seed(1)
    for chunk in gradcache.split(batch, 11):
        model.embed(chunk)
    assert torch.equal(after, torch.rand(1)), "random numbers go on from where the first pass left them"


def test_batchnorm_statistics_move_once() -> None:
    norm = nn.BatchNorm1d(16)
    model, batch = towers(norm)
    gradcache.cached_backward(batch, model.embed, model.loss, lambda loss: loss, chunk_size=22, model=model)
    cached = norm.running_mean.clone()
    norm.reset_running_stats()
    gradcache.backward(batch, model.embed, model.loss, lambda loss: loss)
    torch.testing.assert_close(cached, norm.running_mean)
    assert norm.momentum == 0.1


def test_scaled_losses_give_scaled_gradients_and_plain_terms() -> None:
    model, batch = towers(nn.Identity())
    terms = gradcache.cached_backward(batch, model.embed, model.loss, lambda loss: loss, chunk_size=7, model=model)
    once = gradients(model)
    model.zero_grad()
    again = gradcache.cached_backward(
        batch, model.embed, model.loss, lambda loss: loss * 1024, chunk_size=7, model=model
    )
    torch.testing.assert_close(again, terms)
    torch.testing.assert_close(gradients(model), {name: g * 1024 for name, g in once.items()})


def test_embeddings_without_gradient_pass_through() -> None:
    model, batch = towers(nn.Identity())
    teacher = F.normalize(torch.randn(22, 8), dim=-1)
    rows = iter([teacher[:11], teacher[11:]] * 2)

    def embed(chunk: Pair) -> tuple[Tensor, ...]:
        return (*model.embed(chunk), next(rows))

    def loss(image: Tensor, text: Tensor, target: Tensor) -> dict[str, Tensor]:
        return model.loss(image, text) | {"teacher_loss": (image - target).square().sum(1).mean()}

    terms = gradcache.cached_backward(batch, embed, loss, lambda loss: loss, chunk_size=11, model=model)
    cached = gradients(model)
    model.zero_grad()
    image, text = model.embed(batch)
    gradcache.total(loss(image, text, teacher)).backward()
    assert set(terms) == {"contrastive_loss", "accuracy", "teacher_loss"}
    torch.testing.assert_close(cached, gradients(model), rtol=0, atol=1e-6)


def test_only_losses_are_minimised() -> None:
    terms = {"a_loss": torch.tensor(1.0), "b_loss": torch.tensor(2.0), "accuracy": torch.tensor(9.0)}
    assert gradcache.total(terms).item() == 3
