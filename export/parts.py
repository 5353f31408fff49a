"""The parts of a student for segmentation: the encoder that runs once, and the heads that read its map."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from clip_edge.distill.models import dense
from clip_edge.distill.models.heads import ClipHead
from clip_edge.distill.models.student import Student
from clip_edge.graphs import GraphName


class Encoder(nn.Module):
    """`pixel_values` (B, 3, S, S) -> `feature_map`: (B, C, h, w), or what timm's trunk has in its place."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, C, h, w)"""
        return dense.encode_map(self.student, pixel_values)


class Head(nn.Module):
    """`feature_map` -> `image_embeds` (B, D) and `patch_embeds` (B, D, h, w), unit vectors."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> (B, D), (B, D, h, w)"""
        projection = self.student.image.projection
        if isinstance(projection, ClipHead):  # its layers are computed once for both
            embeds, patches = projection.both(feature_map)
            return F.normalize(embeds, dim=-1), F.normalize(patches, dim=1)
        return dense.embed_map(self.student, feature_map), dense.patch_embeds(self.student, feature_map)


def can_be_cut(student: Student) -> bool:
    """Whether single places of the map are in text space: not where the trunk pools by attention."""
    return getattr(student.image.trunk, "attn_pool", None) is None


def cut(student: Student) -> dict[GraphName, nn.Module]:
    """The graphs of a student; they share its modules."""
    graphs: dict[GraphName, nn.Module] = {"encoder": Encoder(student), "clip_head": Head(student)}
    if student.masks is not None:
        graphs["mask_decoder"] = student.masks
    return {name: module.eval() for name, module in graphs.items()}
