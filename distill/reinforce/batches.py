"""Reinforced batches: every picture comes with one of its augmentations, captions of each kind, and what K teachers
make of both. Like `data.loader.make_batches`, a pure function of (seed, step)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from clip_edge.distill.data.loader import Tokenize, check_langs, read_batches
from clip_edge.distill.data.samples import DataSet, Problem
from clip_edge.distill.reinforce.augment import replay
from clip_edge.distill.reinforce.reader import Reinforced
from clip_edge.distill.reinforce.sidecar import Caption
from clip_edge.distill.teacher import TeacherInfo
from clip_edge.errors import DataError
from clip_edge.images import open_image
from clip_edge.preprocess import Bytes, PreprocessSpec, normalize

Kind = Literal["true", "synthetic"]


@dataclass(frozen=True)
class ReinforcedBatch:
    """One rank's share of a training batch, with T captions per picture and K teachers side by side, E = sum D_k."""

    images: Tensor  # (B, 3, S, S) float32, normalised
    tokens: Tensor  # (B, T, L) int64
    teacher_image: Tensor  # (B, E) unit vectors of the augmented pictures
    teacher_texts: Tensor  # (B, T, E) unit vectors of the captions
    indices: Tensor  # (B,) int64, positions in the data set


@dataclass(frozen=True)
class Item:
    """One sample as a source reads it. `extra` is the source's own: tensors of the same shape for every sample."""

    pixels: Bytes  # (S, S, 3)
    texts: tuple[str, ...]  # T
    extra: tuple[Tensor, ...]
    index: int


@dataclass(frozen=True)
class RawBatch:
    """Items side by side, before the source completes them."""

    images: Tensor  # (B, 3, S, S)
    tokens: Tensor  # (B, T, L)
    texts: list[tuple[str, ...]]  # B times T
    extra: tuple[Tensor, ...]  # (B, ...)
    indices: Tensor  # (B,)


class Source(Protocol):
    """Where augmentations, synthetic captions and the teachers' embeddings come from."""

    @property
    def teachers(self) -> tuple[TeacherInfo, ...]:
        """Whose embeddings stand side by side, in this order."""

    @property
    def id(self) -> str:
        """A hash of everything that decides the embeddings."""

    def reader(
        self, dataset: DataSet, spec: PreprocessSpec, kinds: Sequence[Kind], langs: Sequence[str], seed: int
    ) -> Callable[[int, int], Item]:
        """(epoch, sample number) -> an item; for `data.loader.read_batches`, so it can be pickled."""

    def complete(self, batch: RawBatch) -> ReinforcedBatch:
        """The batch with the teachers' embeddings; in the training process."""


def make_reinforced_batches(
    dataset: DataSet,
    source: Source,
    *,
    kinds: Sequence[Kind],
    spec: PreprocessSpec,
    tokenizer: Tokenize,
    batch_size: int,
    seed: int,
    on_problem: Callable[[Problem], None],
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    langs: Sequence[str] = (),
    workers: int = 0,
) -> Iterator[ReinforcedBatch]:
    """Endless batches from global step `start_step` on: the samples of `data.loader.make_batches`, reinforced.

    Args:
        kinds: which captions a picture meets; one of each is drawn, independently, in one of `langs` (none: all).
        spec: the student's; augmentations are replayed at its size.

    Raises:
        UsageError: the batch does not fit the data or the ranks, or the data lack a language.
        DataError: too many samples in a row cannot be read.
        ArtifactError: a picture or caption is not the one that was described.
    """
    check_langs(dataset, langs)
    raw = read_batches(
        dataset,
        source.reader(dataset, spec, kinds, langs, seed),
        _Collate(spec, tokenizer),
        batch_size=batch_size,
        seed=seed,
        on_problem=on_problem,
        rank=rank,
        world_size=world_size,
        start_step=start_step,
        workers=workers,
    )
    return (source.complete(batch) for batch in raw)


def draw_captions(
    captions: Sequence[Caption], kinds: Sequence[Kind], langs: Sequence[str], rng: random.Random
) -> tuple[Caption, ...]:
    """One caption of each kind, in one of `langs`; where there is none, of another language or kind.

    Raises:
        DataError: there is no caption at all.
    """
    if not captions:
        raise DataError("no caption in the languages of the stored knowledge")
    return tuple(_draw(captions, kind == "synthetic", langs, rng) for kind in kinds)


def _draw(captions: Sequence[Caption], synthetic: bool, langs: Sequence[str], rng: random.Random) -> Caption:
    fitting = [caption for caption in captions if caption.synthetic == synthetic] or captions
    having = list(dict.fromkeys(caption.language for caption in fitting))
    spoken = rng.choice([lang for lang in langs if lang in having] or having)
    return rng.choice([caption for caption in fitting if caption.language == spoken])


class Stored:
    """Knowledge that `clip-edge reinforce` stored. Online teachers are in `online`."""

    def __init__(self, knowledge: Reinforced) -> None:
        self.knowledge = knowledge

    @property
    def teachers(self) -> tuple[TeacherInfo, ...]:
        return self.knowledge.teachers

    @property
    def id(self) -> str:
        return self.knowledge.manifest.job.id

    def reader(
        self, dataset: DataSet, spec: PreprocessSpec, kinds: Sequence[Kind], langs: Sequence[str], seed: int
    ) -> Callable[[int, int], Item]:
        return _StoredReader(dataset, self.knowledge, spec, tuple(kinds), tuple(langs), seed)

    def complete(self, batch: RawBatch) -> ReinforcedBatch:
        teacher_image, teacher_texts = batch.extra
        return ReinforcedBatch(batch.images, batch.tokens, teacher_image, teacher_texts, batch.indices)


@dataclass(frozen=True)
class _StoredReader:
    dataset: DataSet
    knowledge: Reinforced
    spec: PreprocessSpec
    kinds: tuple[Kind, ...]
    langs: tuple[str, ...]
    seed: int

    def __call__(self, epoch: int, index: int) -> Item:
        if index not in self.knowledge:
            raise DataError("the picture could not be read when the knowledge was stored")
        sample = self.dataset.sample(index)
        self.knowledge.check(index, sample.image)
        rng = random.Random(f"{self.seed}/{epoch}/{index}/reinforced")
        augmentation = rng.randrange(self.knowledge.augmentations)
        captions = draw_captions(self.knowledge.captions(index, sample), self.kinds, self.langs, rng)
        params = self.knowledge.params(index, augmentation)
        picture = replay(open_image(sample.image), params, self.spec.size, self.spec.interpolation)
        teacher_image = torch.cat(self.knowledge.image_embeds(index, augmentation))  # (E,)
        teacher_texts = torch.stack([torch.cat(self.knowledge.text_embeds(index, one)) for one in captions])  # (T, E)
        texts = tuple(caption.text for caption in captions)
        return Item(np.asarray(picture, dtype=np.uint8), texts, (teacher_image, teacher_texts), index)


@dataclass(frozen=True)
class _Collate:
    spec: PreprocessSpec
    tokenizer: Tokenize

    def __call__(self, items: list[Item]) -> RawBatch:
        pixels = np.stack([item.pixels for item in items])  # (B, S, S, 3)
        texts = [item.texts for item in items]
        tokens = np.asarray(self.tokenizer([text for several in texts for text in several]), dtype=np.int64)
        return RawBatch(
            images=torch.from_numpy(normalize(pixels, self.spec)),
            tokens=torch.from_numpy(tokens).view(len(items), -1, tokens.shape[1]),  # (B T, L) -> (B, T, L)
            texts=texts,
            extra=tuple(torch.stack(column) for column in zip(*(item.extra for item in items), strict=True)),
            indices=torch.tensor([item.index for item in items]),
        )
