"""A student with the adapters through which it is compared with its teacher; none of them is exported."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from clip_edge.distill.models.fusion import level_widths
from clip_edge.distill.models.student import Student


class AdaptedStudent(nn.Module):
    """A student and its adapters, as one module to be trained, averaged and saved in checkpoints.

    Args:
        map_channels: channels of the teacher's feature map; 0: maps are not compared.
        word_width: width of the teacher's token features; 0: tokens are not compared.
        dim: the teacher's embedding size. Where the student's differs, both towers share one linear map, so that
            their common space stays common.

    Raises:
        ConfigError: maps are to be compared, and timm cannot show those of the student.
    """

    def __init__(self, student: Student, *, map_channels: int, word_width: int, dim: int) -> None:
        super().__init__()
        self.student = student
        self.maps = nn.Conv2d(level_widths(student)[-1], map_channels, 1) if map_channels else None
        self.words = nn.Linear(student.spec.text.width, word_width) if word_width else None
        own = student.spec.embed_dim
        self.embedding: nn.Module = nn.Identity() if own == dim else nn.Linear(own, dim, bias=False)

    def see(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, S, S) -> embeddings (B, E) in the teacher's space, and the adapted map (B, C, h, w)."""
        if self.maps is None:
            return self.embedding(self.student.encode_image(pixel_values)), None
        embedded, level = inside_image(self.student, pixel_values)
        return self.embedding(embedded), self.maps(level)

    def read(self, input_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, L) -> embeddings (B, E) in the teacher's space, and adapted token features (B, L, W)."""
        embedded, words = inside_text(self.student, input_ids)
        return self.embedding(embedded), None if self.words is None else self.words(words)


def shows_maps(student: Student) -> bool:
    """Whether timm can show the feature maps of the image tower."""
    return hasattr(student.image.trunk, "forward_intermediates")


def inside_image(student: Student, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, S, S) -> unit vectors (B, D) and the last feature map (B, C, h, w)."""
    trunk: Any = student.image.trunk
    last, levels = trunk.forward_intermediates(pixel_values)  # timm counts `indices` by the levels of a whole trunk
    return student.project_image(trunk.forward_head(last)), levels[-1]


def inside_text(student: Student, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L) -> unit vectors (B, D) and the features (B, L, W) of all tokens."""
    words = student.text.features(input_ids)
    return F.normalize(student.text.project(words, input_ids), dim=-1), words
