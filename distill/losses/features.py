"""Feature distillation: how far what a student computes inside is from what its teacher computes there.

After DC-CLIP (arXiv 2404.11249): feature maps through a 1x1 adapter, compared with SmoothL1. Where the maps are
standardised, how they are resized and how a batch is averaged is not published; that is ours. All losses are per
sample, 0 where student and teacher agree, so a batch may be cut into chunks and spread over processes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def map_loss(student: Tensor, teacher: Tensor, *, standardise: bool = True) -> Tensor:
    """SmoothL1 (beta = 1) between two feature maps, averaged over channels and places.

    Args:
        student: (B, C, h, w), already with the teacher's channels; it is resized to the teacher's places.
        teacher: (B, C, H, W).
        standardise: compare each place with mean 0 and variance 1 over its channels, on both sides.

    Returns:
        (B,)
    """
    if student.shape[-2:] != teacher.shape[-2:]:
        student = F.interpolate(student, teacher.shape[-2:], mode="bilinear", align_corners=False)  # -> (B, C, H, W)
    a, b = student.permute(0, 2, 3, 1), teacher.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
    if standardise:
        a, b = F.layer_norm(a, a.shape[-1:]), F.layer_norm(b, b.shape[-1:])
    return F.smooth_l1_loss(a, b, reduction="none").mean((1, 2, 3))


def token_loss(student: Tensor, teacher: Tensor, is_token: Tensor, *, standardise: bool = True) -> Tensor:
    """SmoothL1 (beta = 1) between the features of the same tokens, averaged over width and over each sentence.

    Args:
        student, teacher: (B, L, W).
        is_token: (B, L) False for padding, which contributes nothing whatever stands there.

    Returns:
        (B,), 0 for a row without tokens.
    """
    if standardise:
        student, teacher = F.layer_norm(student, student.shape[-1:]), F.layer_norm(teacher, teacher.shape[-1:])
    each = F.smooth_l1_loss(student, teacher, reduction="none").mean(-1)  # (B, L, W) -> (B, L)
    return each.masked_fill(~is_token, 0).sum(1) / is_token.sum(1).clamp(min=1)


def embedding_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """SmoothL1 (beta = 1) between unit vectors (B, D), summed over D -> (B,).

    It is 1 - cosine as long as no coordinate is off by more than 1.
    """
    return F.smooth_l1_loss(student, teacher, reduction="none").sum(-1)
