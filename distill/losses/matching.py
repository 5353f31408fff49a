"""Token alignment: patches of a picture and words of its caption find each other by bipartite matching."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Matching = Literal["relaxed", "sinkhorn", "hungarian"]
SINKHORN_TEMPERATURE, SINKHORN_STEPS = 0.05, 50  # marginals are met to 1e-2 or better; colder needs more steps


def match(
    cosines: Tensor,
    is_word: Tensor,
    matching: Matching,
    *,
    temperature: float = SINKHORN_TEMPERATURE,
    steps: int = SINKHORN_STEPS,
) -> Tensor:
    """How much each patch and each word of a pair have to do with each other.

    "relaxed" keeps one of the two constraints of a matching at a time, which has a closed form: each word takes its
    best patch, and each patch its best word; both plans are averaged. "hungarian" is the one-to-one matching of
    greatest total cosine, each word with a patch of its own (or each patch with a word, where there are more words);
    "sinkhorn" is its entropic smoothing, which converges to it as `temperature` falls and `steps` grow. After
    LightCLIP (arXiv 2312.00674), which relaxes bipartite matching without saying how; these choices are ours.

    Args:
        cosines: (B, P, L) of every patch with every token.
        is_word: (B, L) False for padding, start and end: they never match.

    Returns:
        (B, P, L) without gradient, zero where `is_word` is, each row of the batch summing to 1, or to 0 without words.
    """
    with torch.no_grad():
        scores = cosines.detach().float()
        if matching == "sinkhorn":
            plan = _sinkhorn(scores, is_word, temperature, steps)
        else:
            plan = {"relaxed": _relaxed, "hungarian": _hungarian}[matching](scores, is_word)
        return plan / plan.sum((1, 2), keepdim=True).clamp(min=1e-12)


def alignment_loss(patches: Tensor, tokens: Tensor, is_word: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
    """1 - the mean cosine of what was matched, for each pair; gradient flows through the cosines, not the matching.

    Args:
        patches: (B, P, D) unit vectors. tokens: (B, L, D) unit vectors.
        is_word: (B, L) False for padding, start and end.

    Returns:
        (B,) losses, 0 for a caption without words, and (B,) 1.0 where there are words: what to average over.
    """
    cosines = patches @ tokens.transpose(1, 2)  # (B, P, D) @ (B, D, L) -> (B, P, L)
    plan = match(cosines, is_word, matching)
    has_words = is_word.any(1).to(cosines.dtype)
    return has_words - (plan * cosines).sum((1, 2)), has_words


def _relaxed(cosines: Tensor, is_word: Tensor) -> Tensor:
    words, hidden = is_word.to(cosines.dtype)[:, None, :], ~is_word[:, None, :]
    best_patch = _one_hot_max(cosines, 1) * words  # of each word
    best_word = _one_hot_max(cosines.masked_fill(hidden, -math.inf), 2) * words  # of each patch
    count = words.sum(2, keepdim=True).clamp(min=1)
    return best_patch / count + best_word / cosines.shape[1]


def _one_hot_max(scores: Tensor, axis: int) -> Tensor:
    best = scores.argmax(axis, keepdim=True)
    return torch.zeros_like(scores).scatter_(axis, best, 1.0)


def _sinkhorn(cosines: Tensor, is_word: Tensor, temperature: float, steps: int) -> Tensor:
    """Optimal transport with entropy (Cuturi 2013), in logarithms. The side with more members may leave some out:
    a slack member takes them at cosine 0, as in partial matching."""
    b, p, length = cosines.shape
    words = is_word.sum(1)  # (B,)
    scores = torch.full((b, p + 1, length + 1), -math.inf, device=cosines.device)
    scores[:, :p, :length] = (cosines / temperature).masked_fill(~is_word[:, None, :], -math.inf)
    spare_patches, spare_words = (p - words).clamp(min=0).float(), (words - p).clamp(min=0).float()
    scores[:, :p, length] = torch.where(spare_patches[:, None] > 0, 0.0, -math.inf)
    scores[:, p, :length] = torch.where((spare_words[:, None] > 0) & is_word, 0.0, -math.inf)
    log_rows = torch.cat([torch.zeros(b, p, device=cosines.device), spare_words[:, None].log()], 1)
    log_columns = torch.cat([is_word.float().log(), spare_patches[:, None].log()], 1)
    u, v = torch.zeros_like(log_rows), torch.zeros_like(log_columns)
    for _ in range(steps):
        u = _finite(log_rows - torch.logsumexp(scores + v[:, None, :], 2))
        v = _finite(log_columns - torch.logsumexp(scores + u[:, :, None], 1))
    plan = (scores + u[:, :, None] + v[:, None, :]).exp()
    return plan[:, :p, :length]


def _finite(potential: Tensor) -> Tensor:
    """-inf for members that do not exist (the difference of two infinities)."""
    return potential.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)


def _hungarian(cosines: Tensor, is_word: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    plan = np.zeros(cosines.shape, dtype=np.float32)
    scores, words = cosines.cpu().numpy(), is_word.cpu().numpy()
    for i in range(len(plan)):
        columns = np.flatnonzero(words[i])
        patch, word = linear_sum_assignment(scores[i][:, columns], maximize=True)
        plan[i, patch, columns[word]] = 1.0
    return torch.from_numpy(plan).to(cosines.device)
