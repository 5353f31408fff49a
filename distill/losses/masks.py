"""What a mask head learns from: outlines, or what a teacher thinks of them.

SAM trains with focal and dice loss, 20 to 1, and the squared error of its own estimate of the IoU (Kirillov et al.
2023, appendix A). SAM-CLIP distils with the same on the teacher's scores, without saying how they are meant for
targets that are no longer 0 or 1; the two forms here are ours, and are the usual ones where targets are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL = 20.0  # against 1 for dice


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """(..., h, w) and targets in 0..1 -> (...): |t - p|^2 times the cross-entropy, averaged.

    With targets of 0 and 1 it is the focal loss with gamma = 2 (Lin et al. 2017), without alpha.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return ((target - logits.sigmoid()).square() * entropy).mean((-2, -1))


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """(..., h, w), targets in 0..1 -> (...): 1 - (2 sum p t + 1) / (sum p^2 + sum t^2 + 1); Milletari et al. 2016."""
    p = logits.sigmoid()
    common = (p * target).sum((-2, -1))
    return 1 - (2 * common + 1) / (p.square().sum((-2, -1)) + target.square().sum((-2, -1)) + 1)


def outline_loss(logits: Tensor, target: Tensor) -> Tensor:
    """(..., h, w) and targets in 0..1 -> (...): 20 focal + dice."""
    return FOCAL * focal_loss(logits, target) + dice_loss(logits, target)


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """(..., h, w) logits and targets in 0..1 -> (...): overlap of what both call the object; 1 where neither does."""
    ours, theirs = logits > 0, target > 0.5
    union = (ours | theirs).sum((-2, -1))
    return torch.where(union > 0, (ours & theirs).sum((-2, -1)) / union.clamp(min=1), 1.0)


def learn_outlines(logits: Tensor, quality: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Of three answers the best one learns the outline; all three learn how good they are.

    Args:
        logits: (N, 3, M, M). quality: (N, 3), the IoU that the head expects. target: (N, M, M) in 0..1.

    Returns:
        {"outline": (N,), "quality": (N,), "iou": (N,)}; the last one only reports.
    """
    wanted = target.unsqueeze(1).expand_as(logits)  # (N, M, M) -> (N, 3, M, M)
    each, iou = outline_loss(logits, wanted), mask_iou(logits, wanted)  # (N, 3)
    return {
        "outline": each.amin(1),
        "quality": (quality - iou).square().mean(1),
        "iou": iou.gather(1, quality.argmax(1, keepdim=True)).squeeze(1).detach(),
    }


def follow_outlines(
    logits: Tensor, quality: Tensor, teacher_logits: Tensor, teacher_quality: Tensor
) -> dict[str, Tensor]:
    """Each of three answers follows the teacher's of the same number, and so does the estimate of its quality.

    Args:
        logits: (N, 3, M, M). teacher_logits: (N, 3, T, T), resized to M here. Both qualities: (N, 3).

    Returns:
        as `learn_outlines`; "iou" compares the answers that either thinks best.
    """
    size = list(logits.shape[-2:])
    if list(teacher_logits.shape[-2:]) != size:
        teacher_logits = F.interpolate(teacher_logits, size, mode="bilinear", align_corners=False)
    wanted = teacher_logits.sigmoid()
    best = [_pick(values, found) for values, found in ((logits, quality), (wanted, teacher_quality))]
    return {
        "outline": outline_loss(logits, wanted).mean(1),
        "quality": (quality - teacher_quality).square().mean(1),
        "iou": mask_iou(*best).detach(),
    }


def _pick(masks: Tensor, quality: Tensor) -> Tensor:
    """(N, 3, M, M), (N, 3) -> (N, M, M): the one of the best quality."""
    return masks[torch.arange(len(masks), device=masks.device), quality.argmax(1)]
