"""Masked language modelling: which words are hidden, and how well they are guessed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Of the chosen words: another word stands there, or the word itself; all others are masked (Devlin et al. 2019).
REPLACED, KEPT = 0.1, 0.1


def choose_masked(is_word: Tensor, ratio: float) -> Tensor:
    """(B, L) -> (B, L): `ratio` of each sentence's words, at random, at least one where there is any."""
    words = is_word.sum(1, keepdim=True)
    wanted = torch.minimum((words * ratio).round().clamp(min=1), words)
    order = torch.rand(is_word.shape, device=is_word.device).masked_fill(~is_word, 2.0).argsort(1).argsort(1)
    return order < wanted


def corrupt(input_ids: Tensor, chosen: Tensor, vocabulary: Tensor) -> tuple[Tensor, Tensor]:
    """What the tower reads: ids with some of the chosen words replaced, and (B, L) where the mask stands instead.

    Args:
        vocabulary: (V,) ids that may replace a word: no padding, start or end.
    """
    luck = torch.rand(input_ids.shape, device=input_ids.device)
    others = vocabulary[torch.randint(len(vocabulary), input_ids.shape, device=input_ids.device)]
    replaced = torch.where(chosen & (luck < REPLACED), others, input_ids)
    return replaced, chosen & (luck >= REPLACED + KEPT)


def masked_loss(logits: Tensor, input_ids: Tensor, chosen: Tensor) -> Tensor:
    """Cross-entropy of the chosen positions, and of them alone, summed for each sentence.

    Args:
        logits: (M, V) of the chosen positions in the order of `chosen.nonzero()`.
        input_ids: (B, L) the words as they were. chosen: (B, L).

    Returns:
        (B,) sums; a sentence without chosen words has 0.
    """
    losses = F.cross_entropy(logits.float(), input_ids[chosen], reduction="none")  # (M,)
    rows = chosen.nonzero()[:, 0]
    return losses.new_zeros(len(input_ids)).index_add(0, rows, losses)
