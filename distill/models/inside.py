"""What towers of other libraries compute inside, in one form: feature maps of pictures and features of tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from clip_edge.distill.models.from_hugging_face import ImageOfTransformers
from clip_edge.distill.models.text_towers import TextOfTokens

Inside = Callable[[Tensor], tuple[Tensor, Tensor]]  # what a tower takes -> embeddings (N, D), and what is inside


def image_inside(tower: nn.Module) -> Inside | None:
    """(N, 3, S, S) -> (N, D) and the last feature map (N, C, h, w); None for a tower that does not show it."""
    if isinstance(tower, ImageOfTransformers):
        return tower.inside
    shown = hasattr(tower, "forward_intermediates") and hasattr(getattr(tower, "trunk", tower), "forward_intermediates")
    return functools.partial(_open_clip_image, tower) if shown else None


def text_inside(tower: nn.Module) -> Inside | None:
    """(N, L) -> (N, D) and the features (N, L, W) of all tokens; None for a tower that does not show them."""
    return functools.partial(_text, tower) if isinstance(tower, TextOfTokens) else None


def _open_clip_image(tower: Any, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    found = tower.forward_intermediates(pixel_values, indices=1)
    return found["image_features"], found["image_intermediates"][-1]


def _text(tower: TextOfTokens, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    words = tower.features(input_ids)
    return tower.project(words, input_ids), words
