"""Contrastive losses between the pictures and the sentences of one global batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def clip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    *,
    rows: slice = slice(None),
) -> dict[str, Tensor]:
    """Symmetric softmax cross-entropy: each picture finds its sentence, each sentence its picture.

    L = 1/2 [CE(s I T^T, diagonal) + CE(s T I^T, diagonal)] (Radford et al. 2021, figure 3).

    Args:
        image, text: (B, D) unit vectors of the global batch; row i of one belongs to row i of the other.
        logit_scale: s itself, not its logarithm.
        logit_bias: accepted so that both losses are called alike; a softmax does not see it.
        rows: the queries to average over, all B by default. A process that passes its own rows computes its share:
            the mean over processes with equally many rows is the whole loss.

    Returns:
        {"contrastive_loss": scalar}.
    """
    target = torch.arange(len(image), device=image.device)[rows]
    image_logits = logit_scale * image[rows] @ text.T  # (b, D) @ (D, B) -> (b, B)
    text_logits = logit_scale * text[rows] @ image.T
    loss = (F.cross_entropy(image_logits, target) + F.cross_entropy(text_logits, target)) / 2
    return {"contrastive_loss": loss}


def sigmoid_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    *,
    rows: slice = slice(None),
) -> dict[str, Tensor]:
    """Every pair on its own: does this sentence belong to this picture? Better than the softmax in small batches.

    L = -1/B sum_ij log sigmoid(z_ij (s i_i . t_j + b)), z = 1 on the diagonal, else -1 (Zhai et al. 2023, section 3.2).

    Args and returns are those of `clip_loss`.

    Raises:
        ValueError: no `logit_bias`; without one the B - 1 negatives swamp the first steps.
    """
    if logit_bias is None:
        raise ValueError("the sigmoid loss needs a logit bias")
    logits = logit_scale * image[rows] @ text.T + logit_bias  # (b, B)
    sign = 2 * torch.eye(len(image), device=image.device)[rows] - 1
    return {"contrastive_loss": -F.logsigmoid(sign * logits).sum() / len(logits)}
