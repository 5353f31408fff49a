"""A frozen teacher beside the batches of a student: embeddings, feature maps and features of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clip_edge.distill.data.languages import BalancedBatch
from clip_edge.distill.models.checkpoint import LoadedStudent
from clip_edge.distill.teacher import Teacher, tokenizer_sha256


@dataclass(frozen=True)
class TaughtBatch:
    """One rank's share of a batch, and what the teacher makes of it. What cannot be compared has size 0."""

    images: Tensor  # (B, 3, S, S) float32, normalised
    tokens: Tensor  # (B, L) int64, the student's
    teacher_image: Tensor  # (B, E) unit vectors
    teacher_text: Tensor  # (B, E) unit vectors
    teacher_map: Tensor  # (B, C, h, w), or (B, 0)
    teacher_words: Tensor  # (B, L, W), or (B, 0)


def ask(teacher: Teacher, batches: Iterator[BalancedBatch]) -> Iterator[TaughtBatch]:
    """Every batch with the teacher's answers, without gradient."""
    for batch in batches:
        nothing = torch.zeros(len(batch.tokens), 0)
        image, level = teacher.image_features(batch.views.numpy())
        text, words = teacher.text_features(batch.texts)
        yield TaughtBatch(
            images=batch.images,
            tokens=batch.tokens,
            teacher_image=image,
            teacher_text=text,
            teacher_map=nothing if level is None else level,
            teacher_words=nothing if words is None else words,
        )


def inner_sizes(teacher: Teacher, built: LoadedStudent) -> tuple[int, int]:
    """Channels of the teacher's feature map and width of its tokens; 0 for what cannot be compared.

    Tokens are compared only where both tokenizers cut sentences into the same ones, for as many places.
    """
    size = teacher.info.preprocess.size
    _, level = teacher.image_features(torch.zeros(1, size, size, 3, dtype=torch.uint8).numpy())
    _, words = teacher.text_features([""])
    same = teacher.info.tokenizer_sha256 == tokenizer_sha256(built.tokenizer)
    return 0 if level is None else level.shape[1], words.shape[2] if words is not None and same else 0
