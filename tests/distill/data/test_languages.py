"""Languages have equal shares of every batch, whatever the number of processes."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_edge.distill.data.augment import AugmentSpec
from clip_edge.distill.data.languages import BalancedBatch, balanced_batches
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.sentences import Sentences, read_sentences
from clip_edge.errors import UsageError
from clip_edge.preprocess import PreprocessSpec

SMALL, LARGE = PreprocessSpec(16), PreprocessSpec(32)


def lengths(texts: object) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array([[len(text)] for text in texts], dtype=np.int64)  # type: ignore[attr-defined]


def some(
    data: Path,
    count: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    corpora: tuple[Sentences, ...] = (),
    workers: int = 0,
) -> list[BalancedBatch]:
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
        workers=workers,
        corpora=corpora,
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


@pytest.fixture
def corpora(tmp_path: Path) -> tuple[Sentences, ...]:
    found = []
    for name, count in (("ko", 40), ("ru", 1)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {number}\n" for number in range(count)))
        found.append(read_sentences(tmp_path / f"{name}.txt"))
    return tuple(found)


def test_sentences_of_files_take_turns_with_the_languages(tiny_emoji: Path, corpora: tuple[Sentences, ...]) -> None:
    dataset = open_dataset(tiny_emoji, "train")
    drawn, plain = some(tiny_emoji, 4, corpora=corpora), some(tiny_emoji, 4)
    for batch, other in zip(drawn, plain, strict=True):
        assert torch.equal(batch.images, other.images)  # pictures are what they were
        for place, (text, index) in enumerate(zip(batch.texts, batch.indices.tolist(), strict=True)):
            turn = place % 4
            captions = dataset.sample(index).captions
            assert text in (captions["en"], captions["zh"], list(corpora[0]), list(corpora[1]))[turn]
    korean = [text for batch in drawn for text in batch.texts[2::4]]
    assert len(korean) == 24
    assert len(set(korean)) > 12  # drawn anew each time


def test_sentences_of_files_are_a_function_of_seed_and_step(tiny_emoji: Path, corpora: tuple[Sentences, ...]) -> None:
    whole = some(tiny_emoji, 4, corpora=corpora)
    (resumed,) = some(tiny_emoji, 1, start_step=3, corpora=corpora)
    assert resumed.texts == whole[3].texts
    parts = [some(tiny_emoji, 4, rank=rank, world_size=2, corpora=corpora, workers=1) for rank in (0, 1)]
    assert [one.texts + other.texts for one, other in zip(*parts, strict=True)] == [batch.texts for batch in whole]


def test_a_batch_has_a_row_for_every_language_and_file(tiny_emoji: Path, corpora: tuple[Sentences, ...]) -> None:
    with pytest.raises(UsageError, match="a batch of 24 has no row for each of 2 languages and 24 files of sentences"):
        some(tiny_emoji, 1, corpora=corpora * 12)
    assert len(some(tiny_emoji, 1, corpora=corpora * 11)[0].texts) == 24
