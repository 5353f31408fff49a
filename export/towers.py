"""From a trained student to two modules that hold nothing but inference."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from clip_edge.errors import ExportError
from clip_edge.tokenizer import TextSpec

# Folding branches only reorders additions: 1e-6 is usual on unit vectors, and a wrong fold is off by more than 1e-2.
MAX_FOLD_ERROR = 1e-4
PROBE_ROWS = 2


class ImageTower(nn.Module):
    """`pixel_values` (B, 3, S, S) -> `image_embeds` (B, D), unit rows."""

    def __init__(self, trunk: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.trunk, self.projection = trunk, projection

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D)"""
        return nn.functional.normalize(self.projection(self.trunk(pixel_values)), dim=-1)


class TextTower(nn.Module):
    """`input_ids` (B, L) -> `text_embeds` (B, D), unit rows."""

    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.text = text

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, L) -> (B, D)"""
        return nn.functional.normalize(self.text(input_ids), dim=-1)


def fold(name: str, tower: nn.Module, probe: Tensor) -> nn.Module:
    """A copy of `tower` in evaluation mode, with training-time branches folded into one.

    Raises:
        ExportError: folding changed the numbers, or left a branch behind.
    """
    folded = copy.deepcopy(tower)
    reparameterize(folded)
    with torch.inference_mode():
        _compare(name, tower.eval()(probe), folded(probe))
    return folded


def reparameterize(model: nn.Module) -> None:
    """Fold every multi-branch block of `model` in place: timm's (FastViT, MobileOne, RepViT, ...) and our own.

    The model ends in evaluation mode without gradients, and so do the convolutions that folding makes.

    Raises:
        ExportError: a block kept its branches.
    """
    from timm.models import reparameterize_model

    reparameterize_model(model.eval(), inplace=True)
    model.eval().requires_grad_(False)
    for name, module in model.named_modules():
        if getattr(module, "reparam_conv", module) is None:  # what timm's blocks hold before folding
            raise ExportError(f"a block kept its training-time form: {name}", where=type(module).__name__)


def probe_pixels(size: int) -> Tensor:
    """(2, 3, S, S) pixels, the same every time."""
    return torch.randn(PROBE_ROWS, 3, size, size, generator=torch.Generator().manual_seed(0))


def probe_ids(tokens: TextSpec) -> Tensor:
    """(2, L) int64 ids: one short row and one full row."""
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(tokens.vocab_size, (PROBE_ROWS, tokens.context_length), generator=random)
    ids[(ids == tokens.eos_id) | (ids == tokens.pad_id)] = next(
        index for index in range(3) if index not in (tokens.eos_id, tokens.pad_id)
    )
    ids[0, 2:] = tokens.pad_id
    ids[0, 2], ids[1, -1] = tokens.eos_id, tokens.eos_id
    return ids


def _compare(name: str, before: Tensor, after: Tensor) -> None:
    error = float((before - after).abs().max())
    if not error <= MAX_FOLD_ERROR:  # also true for NaN
        raise ExportError(
            f"folding changed the {name} tower: embeddings differ by {error:.1e}, at most {MAX_FOLD_ERROR:.0e} allowed",
            hint="export a student whose weights are finite; run `clip-edge eval` on it first",
        )
