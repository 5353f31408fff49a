"""What segmentation asks of a model: the map of a picture, its places in text space, and masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from clip_edge.distill.models.dense import encode_map, patch_embeds
from clip_edge.distill.models.student import Student
from clip_edge.errors import ConfigError

Masks = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""A map (N, C, h, w), points (N, P, 2) and labels (N, P) -> logits (N, 3, M, M) and the IoU expected of each (N, 3)."""


@dataclass(frozen=True)
class Sight:
    """`encode` takes normalised pixels (B, 3, S, S), `places` what that gives -> (B, D, h, w) unit vectors.

    `masks` is None where the model outlines nothing.
    """

    encode: Callable[[Tensor], Tensor]
    places: Callable[[Tensor], Tensor]
    masks: Masks | None


def sight_of(model: object) -> Sight:
    """That of a student, or of a model that brings its own as `sight`, as bundles do.

    Raises:
        ConfigError: the model shows no map.
    """
    if isinstance(model, Student):
        return Sight(lambda pixels: encode_map(model, pixels), lambda maps: patch_embeds(model, maps), model.masks)
    sight = getattr(model, "sight", None)
    if not isinstance(sight, Sight):
        raise ConfigError(
            "segmentation needs the feature map of a student folder; this model only embeds whole pictures",
            hint="measure the student that it was made from, or a bundle with graphs for segmentation",
        )
    return sight
