"""What training iterates over: batches that are a pure function of (seed, step), whatever reads them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from clip_edge.distill.data.augment import Augment, AugmentSpec
from clip_edge.distill.data.samples import UNKNOWN_LANGUAGE, DataSet, Problem, Sample
from clip_edge.errors import ClipEdgeError, DataError, UsageError, unknown_name
from clip_edge.images import open_image
from clip_edge.preprocess import Bytes, PreprocessSpec, normalize

WINDOW_SHARDS = 8  # samples mix within this many shards at a time, so that reads stay near each other
SPARE = 64  # broken samples in a row after which the data set is given up

T = TypeVar("T")
B = TypeVar("B")
Tokenize = Callable[[Sequence[str]], np.ndarray[Any, np.dtype[np.int64]]]


@dataclass(frozen=True)
class Batch:
    """One rank's share of a training batch."""

    images: Tensor  # (B, 3, S, S) float32, normalised
    tokens: Tensor  # (B, L) int64
    indices: Tensor  # (B,) int64, positions in the data set


def steps_per_epoch(dataset: DataSet, batch_size: int) -> int:
    """Global batches in one pass over the data; the incomplete last one is dropped.

    Raises:
        UsageError: the data set has fewer samples than a batch.
    """
    if not 1 <= batch_size <= len(dataset):
        raise UsageError(
            f"the batch of {batch_size} does not fit the data set of {len(dataset)} samples",
            hint="lower the batch size, or make a larger data set",
        )
    return len(dataset) // batch_size


def epoch_order(dataset: DataSet, seed: int, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(N,) a permutation of the samples: shards in random order, samples mixed within windows of eight shards."""
    rng = np.random.default_rng((seed, epoch))
    shards = dataset.shard_of_all()
    names = rng.permutation(np.unique(shards))
    parts = [
        rng.permutation(np.flatnonzero(np.isin(shards, names[start : start + WINDOW_SHARDS])))
        for start in range(0, len(names), WINDOW_SHARDS)
    ]
    return np.concatenate(parts)


def make_batches(
    dataset: DataSet,
    *,
    spec: PreprocessSpec,
    tokenizer: Tokenize,
    batch_size: int,
    seed: int,
    on_problem: Callable[[Problem], None],
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    augment: AugmentSpec | None = None,
    langs: Sequence[str] = (),
    workers: int = 0,
) -> Iterator[Batch]:
    """Endless batches, from global step `start_step` on.

    `batch_size` counts all ranks; rank r gets the r-th contiguous part of every global batch. Language (of `langs`;
    none given: all) and caption are drawn anew per sample and epoch. A sample that cannot be read is replaced by the
    next one in the data set, and `on_problem` hears of it once.

    Raises:
        UsageError: the batch does not fit the data or the ranks, or the data lack a language.
        DataError: too many samples in a row cannot be read.
    """
    check_langs(dataset, langs)
    return read_batches(
        dataset,
        _SampleReader(dataset, Augment(augment or AugmentSpec(), spec), tuple(langs), seed),
        _Collate(spec, tokenizer),
        batch_size=batch_size,
        seed=seed,
        on_problem=on_problem,
        rank=rank,
        world_size=world_size,
        start_step=start_step,
        workers=workers,
    )


def read_batches(
    dataset: DataSet,
    read: Callable[[int, int], T],
    collate: Callable[[list[T]], B],
    *,
    batch_size: int,
    seed: int,
    on_problem: Callable[[Problem], None],
    rank: int,
    world_size: int,
    start_step: int,
    workers: int,
) -> Iterator[B]:
    """What `make_batches` promises about order, ranks, resuming and broken samples, for any kind of batch.

    Args:
        read: (epoch, sample number) -> an item; a DataError means that this sample cannot be read.
        collate: the items of a rank -> its batch. Both run in the reading processes, so both can be pickled.

    Raises:
        UsageError: the batch does not fit the data or the ranks.
        ClipEdgeError: whatever else `read` raises, and DataError when too many samples in a row cannot be read.
    """
    steps_per_epoch(dataset, batch_size)
    if batch_size % world_size:
        raise UsageError(f"a batch of {batch_size} cannot be split evenly over {world_size} processes")
    loader: DataLoader[Any] = DataLoader(
        _Items(dataset, read),
        batch_sampler=_Schedule(dataset, batch_size, seed, rank, world_size, start_step),
        num_workers=workers,
        collate_fn=_Whole(collate),
        generator=torch.Generator().manual_seed(seed),  # its own, or the global generator would move
        prefetch_factor=4 if workers else None,
    )
    return _report(loader, on_problem)


def check_langs(dataset: DataSet, langs: Sequence[str]) -> None:
    """Raise UsageError for a language that the captions do not have. Data of unknown language fit any."""
    if UNKNOWN_LANGUAGE in dataset.langs:
        return
    for lang in langs:
        if lang not in dataset.langs:
            raise unknown_name("caption language", lang, dataset.langs)


def choose_caption(sample: Sample, langs: Sequence[str], rng: random.Random) -> str:
    """One caption in one of `langs`, or in any language when none is asked for or the sample has none of them."""
    having = [lang for lang in langs if lang in sample.captions] or list(sample.captions)
    return rng.choice(sample.captions[rng.choice(having)])


class _Schedule:
    """Global step -> the (epoch, index) pairs that one rank reads; endless."""

    def __init__(
        self, dataset: DataSet, batch_size: int, seed: int, rank: int, world_size: int, start_step: int
    ) -> None:
        self.dataset, self.seed, self.start_step = dataset, seed, start_step
        self.batch_size, self.share = batch_size, batch_size // world_size
        self.offset = rank * self.share

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = steps_per_epoch(self.dataset, self.batch_size)
        epoch, step = divmod(self.start_step, per_epoch)
        while True:
            order = epoch_order(self.dataset, self.seed, epoch)
            for now in range(step, per_epoch):
                start = now * self.batch_size + self.offset
                yield [(epoch, int(i)) for i in order[start : start + self.share]]
            epoch, step = epoch + 1, 0


@dataclass(frozen=True)
class _Item:
    """What was read, and the samples before it that could not be."""

    value: Any
    problems: tuple[Problem, ...]


class _Items(Dataset[Any]):
    """(epoch, index) -> the item of that sample, or of the next one that can be read.

    An error is returned: raised in a worker process it would arrive as a traceback in words.
    """

    def __init__(self, dataset: DataSet, read: Callable[[int, int], Any]) -> None:
        self.dataset, self.read = dataset, read

    def __getitem__(self, place: tuple[int, int]) -> _Item | ClipEdgeError:
        epoch, first = place
        problems: list[Problem] = []
        for i in range(first, first + min(SPARE, len(self.dataset))):
            index = i % len(self.dataset)
            try:
                return _Item(self.read(epoch, index), tuple(problems))
            except DataError as problem:
                problems.append(
                    Problem("unreadable", self.dataset.keys[index], self.dataset.where(index), problem.what)
                )
            except ClipEdgeError as problem:
                return problem
        return DataError(
            f"{len(problems)} samples in a row cannot be read; the last one: {problems[-1].reason}",
            where=problems[-1].where,
            hint="`clip-edge data check DIR` names every problem",
        )


class _Whole:
    """Items -> batch and problems, or the first error; in the process that read them."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[_Item | ClipEdgeError]) -> tuple[Any, list[Problem]] | ClipEdgeError:
        read: list[_Item] = []
        for item in items:
            if isinstance(item, ClipEdgeError):
                return item
            read.append(item)
        return self.collate([item.value for item in read]), [problem for item in read for problem in item.problems]


def _report(loader: DataLoader[Any], on_problem: Callable[[Problem], None]) -> Iterator[Any]:
    told: set[Problem] = set()
    for result in loader:
        if isinstance(result, ClipEdgeError):
            raise result
        batch, problems = result
        for problem in problems:
            if problem not in told:
                told.add(problem)
                on_problem(problem)
        yield batch


class _SampleReader:
    """(epoch, index) -> pixels (S, S, 3), caption, index."""

    def __init__(self, dataset: DataSet, augment: Augment, langs: tuple[str, ...], seed: int) -> None:
        self.dataset, self.augment, self.langs, self.seed = dataset, augment, langs, seed

    def __call__(self, epoch: int, index: int) -> tuple[Bytes, str, int]:
        sample = self.dataset.sample(index)
        image = open_image(sample.image)
        text = choose_caption(sample, self.langs, random.Random(f"{self.seed}/{epoch}/{index}"))
        return self.augment(image, (self.seed, epoch, index)), text, index


class _Collate:
    def __init__(self, spec: PreprocessSpec, tokenizer: Tokenize) -> None:
        self.spec, self.tokenizer = spec, tokenizer

    def __call__(self, items: list[tuple[Bytes, str, int]]) -> Batch:
        pixels, texts, indices = zip(*items, strict=True)
        images = torch.from_numpy(normalize(np.stack(pixels), self.spec))  # (B, S, S, 3) -> (B, 3, S, S)
        tokens = torch.from_numpy(np.asarray(self.tokenizer(texts), dtype=np.int64))
        return Batch(images, tokens, torch.tensor(indices))
