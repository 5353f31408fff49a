"""The backward pass of a loss that needs a large batch at once, plain or in chunks that fit into memory.

Gradient caching (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"):
1. embed every chunk without keeping activations;
2. compute the loss on all embeddings, and its gradient with respect to them;
3. embed every chunk again, now with activations, and continue the backward pass from the stored gradient.
The result is the gradient of the whole batch for one more forward pass. Towers with BatchNorm normalise each chunk
by itself, as every process does in distributed training; all others give the plain gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

B = TypeVar("B")
Embed = Callable[[B], tuple[Tensor, ...]]  # a batch or a chunk of it -> embeddings, the first axis is the batch
LossFn = Callable[..., dict[str, Tensor]]  # the embeddings of all chunks -> named terms
ScaleLoss = Callable[[Tensor], Tensor]  # loss scaling for fp16


def total(terms: dict[str, Tensor]) -> Tensor:
    """What is minimised: the sum of the terms whose name ends in `_loss`; the others are only reported."""
    return torch.stack([value for name, value in terms.items() if name.endswith("_loss")]).sum()


def backward(batch: B, embed: Embed[B], loss_fn: LossFn, scale_loss: ScaleLoss) -> dict[str, Tensor]:
    """The plain backward pass: gradients are added to the parameters, and the detached terms returned."""
    terms = loss_fn(*embed(batch))
    torch.autograd.backward(scale_loss(total(terms)))
    return _detached(terms)


def cached_backward(
    batch: B, embed: Embed[B], loss_fn: LossFn, scale_loss: ScaleLoss, *, chunk_size: int, model: nn.Module
) -> dict[str, Tensor]:
    """The same gradients and terms as `backward`, with the activations of `chunk_size` samples in memory.

    `model` is what `embed` runs: random numbers (dropout) are replayed in the second pass, and BatchNorm statistics
    are updated once.
    """
    chunks = list(split(batch, chunk_size))
    states, parts = [], []
    with torch.no_grad(), _batchnorm_statistics_kept(model):
        for chunk in chunks:
            states.append(_random_state(model))
            parts.append(embed(chunk))
    embeddings = [torch.cat(column).detach().requires_grad_() for column in zip(*parts, strict=True)]
    terms = loss_fn(*embeddings)
    torch.autograd.backward(scale_loss(total(terms)))
    after = _random_state(model)
    gradients = [e.grad if e.grad is not None else torch.zeros_like(e) for e in embeddings]
    start = 0
    for chunk, state in zip(chunks, states, strict=True):
        _set_random_state(state)
        again = embed(chunk)
        end = start + len(again[0])
        pairs = [(e, g[start:end]) for e, g in zip(again, gradients, strict=True) if e.requires_grad]
        torch.autograd.backward([e for e, _ in pairs], [g for _, g in pairs])
        start = end
    _set_random_state(after)
    return _detached(terms)


def split(batch: B, chunk_size: int) -> Iterator[B]:
    """A dataclass of tensors cut along its first axis into pieces of at most `chunk_size` rows."""
    columns = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}  # type: ignore[arg-type]
    rows = len(next(iter(columns.values())))
    for start in range(0, rows, chunk_size):
        piece = {name: column[start : start + chunk_size] for name, column in columns.items()}
        yield dataclasses.replace(batch, **piece)  # type: ignore[type-var]


def _detached(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in terms.items()}


def _random_state(model: nn.Module) -> tuple[Tensor, Tensor | None]:
    on_cuda = next(model.parameters()).is_cuda
    return torch.get_rng_state(), torch.cuda.get_rng_state() if on_cuda else None


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


@contextmanager
def _batchnorm_statistics_kept(model: nn.Module) -> Iterator[None]:
    """Running statistics do not move while the block runs."""
    norms: list[Any] = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
