"""Batches in which every language has the same share, with what a frozen teacher sees of each picture."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clip_edge.distill.data.augment import Augment, AugmentSpec
from clip_edge.distill.data.loader import Tokenize, check_langs, read_batches
from clip_edge.distill.data.samples import DataSet, Problem
from clip_edge.distill.data.sentences import Sentences
from clip_edge.errors import UsageError
from clip_edge.images import open_image
from clip_edge.preprocess import Bytes, PreprocessSpec, normalize


@dataclass(frozen=True)
class BalancedBatch:
    """One rank's share of a training batch; row i speaks language i mod K of K languages and files of sentences.

    The sentence of a file has nothing to do with the picture of its row.
    """

    images: Tensor  # (B, 3, S, S) float32, normalised
    tokens: Tensor  # (B, L) int64
    indices: Tensor  # (B,) int64, positions in the data set
    views: Tensor  # (B, T, T, 3) uint8, the same augmentation at the teacher's size; (B, 0) without a teacher
    texts: tuple[str, ...]  # the sentences


def balanced_batches(
    dataset: DataSet,
    *,
    spec: PreprocessSpec,
    view: PreprocessSpec | None,
    tokenizer: Tokenize,
    augment: AugmentSpec,
    langs: Sequence[str],
    batch_size: int,
    seed: int,
    on_problem: Callable[[Problem], None],
    rank: int,
    world_size: int,
    start_step: int,
    workers: int,
    corpora: Sequence[Sentences] = (),
) -> Iterator[BalancedBatch]:
    """Endless batches, as `loader.make_batches`, but languages take turns within every batch.

    A sample that lacks the language whose turn it is gives a caption in one of the others. Which samples meet in a
    batch is random, so every sample speaks every language in the course of the epochs.

    Args:
        view: what the teacher wants to see; None without a teacher.
        langs: empty: all of the data set.
        corpora: files of sentences, each of which takes turns like a language; which sentence, is drawn anew per sample
            and epoch.

    Raises:
        UsageError, DataError: as `make_batches`; a batch with fewer rows than languages and files.
    """
    check_langs(dataset, langs)
    chosen = tuple(langs) or tuple(dataset.langs)
    if batch_size < len(chosen) + len(corpora):
        sources = f"{len(chosen)} languages and {len(corpora)} files of sentences"
        raise UsageError(
            f"a batch of {batch_size} has no row for each of {sources}",
            hint="raise the batch size, or name fewer languages and files",
        )
    return read_batches(
        dataset,
        _Reader(
            dataset,
            Augment(augment, spec),
            None if view is None else Augment(augment, view),
            chosen,
            tuple(corpora),
            seed,
        ),
        _Collate(spec, tokenizer, chosen, first=rank * (batch_size // world_size)),
        batch_size=batch_size,
        seed=seed,
        on_problem=on_problem,
        rank=rank,
        world_size=world_size,
        start_step=start_step,
        workers=workers,
    )


@dataclass(frozen=True)
class _Item:
    pixels: Bytes  # (S, S, 3)
    view: Bytes  # (T, T, 3), or empty
    captions: dict[str, str]  # one per language
    sentences: tuple[str, ...]  # one per file
    index: int


@dataclass(frozen=True)
class _Reader:
    """(epoch, index) -> the picture as student and teacher see it, a caption in each language, a sentence per file."""

    dataset: DataSet
    student: Augment
    teacher: Augment | None
    langs: tuple[str, ...]
    corpora: tuple[Sentences, ...]
    seed: int

    def __call__(self, epoch: int, index: int) -> _Item:
        sample = self.dataset.sample(index)
        image, rng = open_image(sample.image), random.Random(f"{self.seed}/{epoch}/{index}/languages")
        seed = (self.seed, epoch, index)
        having = [lang for lang in self.langs if lang in sample.captions] or list(sample.captions)
        drawn = {lang: rng.choice(sample.captions[lang]) for lang in having}
        sentences = tuple(corpus[rng.randrange(len(corpus))] for corpus in self.corpora)
        view = np.zeros(0, np.uint8) if self.teacher is None else self.teacher(image, seed)
        return _Item(self.student(image, seed), view, drawn, sentences, index)


@dataclass(frozen=True)
class _Collate:
    spec: PreprocessSpec
    tokenizer: Tokenize
    langs: tuple[str, ...]
    first: int  # place of this rank's first row in the global batch

    def __call__(self, items: list[_Item]) -> BalancedBatch:
        texts = tuple(self._turn(self.first + i, item) for i, item in enumerate(items))
        return BalancedBatch(
            images=torch.from_numpy(normalize(np.stack([item.pixels for item in items]), self.spec)),
            tokens=torch.from_numpy(np.asarray(self.tokenizer(texts), dtype=np.int64)),
            indices=torch.tensor([item.index for item in items]),
            views=torch.from_numpy(np.stack([item.view for item in items])),
            texts=texts,
        )

    def _turn(self, place: int, item: _Item) -> str:
        turn = place % (len(self.langs) + len(item.sentences))
        if turn >= len(self.langs):
            return item.sentences[turn - len(self.langs)]
        return item.captions.get(self.langs[turn]) or list(item.captions.values())[place % len(item.captions)]
