"""A frozen teacher beside the batches of a student: embeddings, feature maps and features of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clip_edge.distill.data.languages import BalancedBatch
from clip_edge.distill.models.adapted import shows_maps
from clip_edge.distill.models.checkpoint import LoadedStudent
from clip_edge.distill.teacher import Teacher, tokenizer_sha256


@dataclass(frozen=True)
class TaughtBatch:
    """One rank's share of a batch, and what the teacher makes of it. What is not compared has size 0."""

    images: Tensor  # (B, 3, S, S) float32, normalised
    tokens: Tensor  # (B, L) int64, the student's
    teacher_image: Tensor  # (B, E) unit vectors, or (B, 0)
    teacher_text: Tensor  # (B, E) unit vectors, or (B, 0)
    teacher_map: Tensor  # (B, C, h, w), or (B, 0)
    teacher_words: Tensor  # (B, L, W), or (B, 0)


@dataclass(frozen=True)
class Wanted:
    """What is compared with the teacher, and so what it is asked; `words` and `level` come with the embeddings."""

    image: bool = True
    level: bool = True
    text: bool = True
    words: bool = True


def ask(teacher: Teacher, batches: Iterator[BalancedBatch], wanted: Wanted) -> Iterator[TaughtBatch]:
    """Every batch with the teacher's answers, without gradient."""
    for batch in batches:
        image = text = level = words = None
        pixels = batch.views.numpy()
        if wanted.level:
            image, level = teacher.image_features(pixels)
        elif wanted.image:
            image = teacher.encode_images(pixels)
        if wanted.words:
            text, words = teacher.text_features(batch.texts)
        elif wanted.text:
            text = teacher.encode_texts(batch.texts)
        nothing = torch.zeros(len(batch.tokens), 0)
        answers = (nothing if answer is None else answer for answer in (image, text, level, words))
        yield TaughtBatch(batch.images, batch.tokens, *answers)


def inner_sizes(teacher: Teacher, built: LoadedStudent) -> tuple[int, int]:
    """Channels of the teacher's feature map and width of its tokens; 0 for what cannot be compared.

    Maps are compared where both towers show them, and tokens where both tokenizers cut sentences into the same ones,
    for as many places.
    """
    size = teacher.info.preprocess.size
    _, level = teacher.image_features(torch.zeros(1, size, size, 3, dtype=torch.uint8).numpy())
    _, words = teacher.text_features([""])
    same = teacher.info.tokenizer_sha256 == tokenizer_sha256(built.tokenizer)
    return (
        level.shape[1] if level is not None and shows_maps(built.student) else 0,
        words.shape[2] if words is not None and same else 0,
    )
