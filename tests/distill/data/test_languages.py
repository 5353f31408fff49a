"""Languages have equal shares of every batch, whatever the number of processes."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch

from clip_edge.distill.data.augment import AugmentSpec
from clip_edge.distill.data.languages import BalancedBatch, balanced_batches
from clip_edge.distill.data.readers import open_dataset
from clip_edge.preprocess import PreprocessSpec

SMALL, LARGE = PreprocessSpec(16), PreprocessSpec(32)


def lengths(texts: object) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array([[len(text)] for text in texts], dtype=np.int64)  # type: ignore[attr-defined]


def some(data: Path, count: int, *, rank: int = 0, world_size: int = 1, start_step: int = 0) -> list[BalancedBatch]:
    batches = balanced_batches(
        open_dataset(data, "train"),
        spec=SMALL,
        view=LARGE,
        tokenizer=lengths,
        augment=AugmentSpec(),
        langs=("en", "zh"),
        batch_size=24,
        seed=0,
        on_problem=lambda problem: None,
        rank=rank,
        world_size=world_size,
        start_step=start_step,
        workers=0,
    )
    return list(islice(batches, count))


def test_languages_take_turns(tiny_emoji: Path) -> None:
    dataset = open_dataset(tiny_emoji, "train")
    for batch in some(tiny_emoji, 3):
        for place, (text, index) in enumerate(zip(batch.texts, batch.indices.tolist(), strict=True)):
            assert text in dataset.sample(index).captions[("en", "zh")[place % 2]]
        assert batch.images.shape == (24, 3, 16, 16)
        assert batch.views.shape == (24, 32, 32, 3)


def test_ranks_read_the_parts_of_the_same_batch(tiny_emoji: Path) -> None:
    (whole,) = some(tiny_emoji, 1)
    parts = [some(tiny_emoji, 1, rank=rank, world_size=2)[0] for rank in (0, 1)]
    assert parts[0].texts + parts[1].texts == whole.texts
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)


def test_a_resumed_stream_goes_on_as_it_was(tiny_emoji: Path) -> None:
    assert some(tiny_emoji, 1, start_step=3)[0].texts == some(tiny_emoji, 4)[3].texts
