"""The loss of multi-modal reinforced training: pairs meet, and similarities are those that the teachers see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Pairs = tuple[Tensor, Tensor]  # queries and keys, row i belongs to row i


def reinforced_loss(
    image: Tensor,
    texts: Tensor,
    logit_scale: Tensor,
    teacher_image: Tensor,
    teacher_texts: Tensor,
    *,
    dims: Sequence[int],
    scales: Sequence[float],
    distill_weight: float,
    names: Sequence[str] = ("true", "synthetic"),
    rows: slice = slice(None),
) -> dict[str, Tensor]:
    """CLIP's loss and the distance to K teachers, summed over T kinds of captions of the same pictures.

    L = sum_t (1 - w) L_CLIP(I, T_t) + w / 2K sum_k [KL(P_k || Q) + KL(P_k' || Q')], where Q = softmax(s I T_t^T),
    P_k = softmax(s_k I_k T_tk^T), and the primes are text to image (Vasu et al. 2024, "MobileCLIP", equations 1-3;
    w is their lambda). The entropy of the teachers is taken out, so a student that agrees with them has KL = 0.

    Args:
        image: (B, D) the student's unit vectors of the global batch.
        texts: (B, T, D) those of the captions, in the order of `names`.
        logit_scale: s itself, not its logarithm; it learns.
        teacher_image, teacher_texts: (B, E), (B, T, E) the teachers' unit vectors side by side, E = sum of `dims`.
            No gradient goes into them.
        scales: s_k, one per teacher; they stay as they are.
        distill_weight: w in 0..1.
        rows: the queries to average over, as in `contrastive.clip_loss`.

    Returns:
        {"reinforced_loss": L} and, only reported, {"<name>/contrastive", "<name>/kl"} for each kind of caption.
    """
    seen = torch.split(teacher_image.detach().float(), list(dims), dim=-1)  # K times (B, D_k)
    terms: dict[str, Tensor] = {}
    loss = image.new_zeros(())
    for t, name in enumerate(names):
        text = texts[:, t]
        read = torch.split(teacher_texts[:, t].detach().float(), list(dims), dim=-1)
        to_text = _one_way((image, text), list(zip(seen, read, strict=True)), logit_scale, scales, rows)
        to_image = _one_way((text, image), list(zip(read, seen, strict=True)), logit_scale, scales, rows)
        contrastive, kl = ((one + other) / 2 for one, other in zip(to_text, to_image, strict=True))
        loss = loss + (1 - distill_weight) * contrastive + distill_weight * kl
        terms |= {f"{name}/contrastive": contrastive, f"{name}/kl": kl}
    return {"reinforced_loss": loss} | terms


def _one_way(
    student: Pairs, teachers: Sequence[Pairs], scale: Tensor, scales: Sequence[float], rows: slice
) -> tuple[Tensor, Tensor]:
    """Cross-entropy with the diagonal, and the mean KL divergence from the teachers, of queries -> keys."""
    target = torch.arange(len(student[0]), device=student[0].device)[rows]
    found = _log_similarities(student, scale, rows)  # (b, B)
    contrastive = F.nll_loss(found, target)
    divergences = []
    for pairs, fixed in zip(teachers, scales, strict=True):
        wanted = _log_similarities(pairs, fixed, rows)
        divergences.append(F.kl_div(found, wanted, reduction="batchmean", log_target=True))
    return contrastive, torch.stack(divergences).mean()


def _log_similarities(pairs: Pairs, scale: Tensor | float, rows: slice) -> Tensor:
    """(B, D), (B, D) -> (b, B) log softmax(s q k^T) of the queries `rows`."""
    queries, keys = pairs
    return F.log_softmax(scale * queries[rows] @ keys.T, dim=-1)
