"""CLIP's loss with softened labels: a negative that resembles the positive is not quite a negative."""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Softening(Protocol):
    """Which negatives get how much of the softened part."""

    @property
    def temperature(self) -> float: ...
    @property
    def weighting(self) -> Literal["similarity", "uniform", "intra_modal"]: ...


def softened_labels(similarity: Tensor, target: Tensor, alpha: float, temperature: float) -> Tensor:
    """Labels that give `alpha` of their mass to the negatives, more to those that are more similar.

    Y_ij = (1 - alpha) [j = i] + alpha W_ij with W_i = softmax over j != i of similarity_ij / temperature; the
    similarity itself gets no gradient. After LightCLIP (arXiv 2312.00674), which softens by similarity progressively
    but publishes no formula; this one is ours.

    Args:
        similarity: (b, B) of each query with each candidate.
        target: (b,) the positive of each query.
        alpha: 0..1; 0 gives one-hot rows.
        temperature: above 0; infinity spreads evenly.

    Returns:
        (b, B) rows that sum to 1.
    """
    positive = F.one_hot(target, similarity.shape[1]).to(similarity.dtype)
    negatives = (similarity.detach() / temperature).masked_fill(positive.bool(), -torch.inf)
    spread = torch.softmax(negatives, dim=1) if similarity.shape[1] > 1 else positive
    return (1 - alpha) * positive + alpha * spread


def softened_clip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    *,
    alpha: float,
    settings: Softening,
    rows: slice = slice(None),
) -> Tensor:
    """Symmetric cross-entropy with `softened_labels`; alpha = 0 is `contrastive.clip_loss` exactly.

    Negatives are weighed by the similarity of the query with each candidate ("similarity"), of the positive's
    neighbours within the query's own kind ("intra_modal": pictures that look alike, sentences that read alike), or all
    alike ("uniform").

    Args:
        image, text: (B, D) unit vectors of the global batch; row i of one belongs to row i of the other.
        logit_scale: s itself, not its logarithm.
        alpha: the share of the labels' mass that negatives get now.
        rows: the queries to average over, as in `contrastive.clip_loss`.

    Returns:
        The loss, a scalar.
    """
    target = torch.arange(len(image), device=image.device)[rows]
    losses = []
    for queries, candidates in ((image, text), (text, image)):
        logits = logit_scale * queries[rows] @ candidates.T  # (b, D) @ (D, B) -> (b, B)
        if settings.weighting == "similarity":
            similarity = logits.detach() / logit_scale.detach()
        else:
            similarity = queries[rows] @ queries.T if settings.weighting == "intra_modal" else torch.zeros_like(logits)
        labels = softened_labels(similarity, target, alpha, settings.temperature) if alpha else target
        losses.append(F.cross_entropy(logits, labels))
    return (losses[0] + losses[1]) / 2


def ramp(step: int, steps: int, shape: Literal["linear", "cosine"]) -> float:
    """How far softening has come at `step` of `steps`: 0 at the start, where similarity is noise, 1 at the end."""
    share = min(1.0, max(0.0, step / max(1, steps)))
    if shape == "linear":
        return share
    return (1 - math.cos(math.pi * share)) / 2
