"""What a student sees at every place of a picture: the map that its heads share, taken into text space.

A merged student computes its map once for all heads (`image.head`, `masks`). Plain students have a map too, the one
that their trunk pools; every place of it goes through the same head and projection as the pooled features, which is
the usual baseline of segmentation by words.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from clip_edge.distill.models.heads import ClipHead
from clip_edge.distill.models.student import Student
from clip_edge.errors import ConfigError


def encode_map(student: Student, pixel_values: Tensor) -> Tensor:
    """(B, 3, S, S) -> (B, C, h, w), what all heads read. Of a plain student it is what timm's `forward_features` gives:
    (B, N, C) for a transformer, (B, h, w, C) for some."""
    trunk: Any = student.image.trunk
    found: Tensor = trunk(pixel_values) if student.spec.image.head else trunk.forward_features(pixel_values)
    return found


def embed_map(student: Student, feature_map: Tensor) -> Tensor:
    """What `encode_map` gives -> (B, D) unit vectors, the same as `student.encode_image`."""
    trunk: Any = student.image.trunk
    return student.project_image(feature_map if student.spec.image.head else trunk.forward_head(feature_map))


def patch_embeds(student: Student, feature_map: Tensor) -> Tensor:
    """What `encode_map` gives -> (B, D, h, w) unit vectors in text space.

    Raises:
        ConfigError: the tower pools by attention, so that single places are not in text space.
    """
    projection = student.image.projection
    if isinstance(projection, ClipHead):
        return F.normalize(projection.patches(feature_map), dim=1)
    trunk: Any = student.image.trunk
    if getattr(trunk, "attn_pool", None) is not None:
        raise ConfigError(
            f"`{student.spec.image.tower}` pools by attention: single places of its map are not in text space",
            where=f"student {student.spec.name}",
            hint="take a tower that averages, or a merged student (recipe sam-clip)",
        )
    places = _places(trunk, feature_map)  # (B, h, w, C)
    batch, high, wide = places.shape[:3]
    if feature_map.ndim == 3:  # a transformer's head starts with its norm, and would pool tokens first
        features = trunk.fc_norm(places).flatten(0, 2)
    else:
        one = places.flatten(0, 2)  # each place as a picture of its own, for heads that begin with pooling
        is_last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
        features = trunk.forward_head(one[:, None, None] if is_last else one[:, :, None, None])
    embedded = F.normalize(projection(features), dim=-1)  # (B h w, C) -> (B h w, D)
    return embedded.reshape(batch, high, wide, -1).permute(0, 3, 1, 2)


def _places(trunk: Any, feature_map: Tensor) -> Tensor:
    """Any layout of timm's -> (B, h, w, C)."""
    if feature_map.ndim == 4:
        is_last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
        return feature_map if is_last else feature_map.permute(0, 2, 3, 1)
    high, wide = trunk.patch_embed.grid_size
    tokens = feature_map[:, trunk.num_prefix_tokens :]  # (B, N, C)
    return tokens.reshape(len(tokens), high, wide, -1)
