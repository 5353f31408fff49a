"""Reinforced batches: what was stored, as a pure function of (seed, step), whoever reads it."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clip_edge.distill.data.loader import make_batches
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.samples import DataSet, Problem
from clip_edge.distill.reinforce.augment import replay
from clip_edge.distill.reinforce.batches import ReinforcedBatch, Stored, draw_captions, make_reinforced_batches
from clip_edge.distill.reinforce.engine import Options, Work
from clip_edge.distill.reinforce.reader import Reinforced, open_reinforced
from clip_edge.distill.reinforce.sidecar import Caption
from clip_edge.errors import ArtifactError, DataError, UsageError
from clip_edge.images import open_image
from clip_edge.preprocess import PreprocessSpec, normalize

SPEC = PreprocessSpec(size=24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
LENGTH = 40
BROKEN = 10
FIELDS = ("images", "tokens", "teacher_image", "teacher_texts", "indices")


def byte_tokens(texts: Sequence[str]) -> np.ndarray:
    """UTF-8 bytes, padded with zeros: reversible, so that tests can read the captions back."""
    return np.array([[*text.encode(), *[0] * (LENGTH - len(text.encode()))] for text in texts], dtype=np.int64)


def text_of(tokens: torch.Tensor) -> str:
    return bytes(tokens.tolist()).rstrip(b"\0").decode()


@pytest.fixture(scope="module")
def knowledge(made: tuple[Work, Path]) -> Reinforced:
    return open_reinforced(made[0].dataset, made[1])


@pytest.fixture(scope="module")
def dataset(made: tuple[Work, Path]) -> DataSet:
    return made[0].dataset


def take(
    dataset: DataSet, knowledge: Reinforced, count: int, **more: Any
) -> tuple[list[ReinforcedBatch], list[Problem]]:
    problems: list[Problem] = []
    options: dict[str, Any] = {
        "kinds": ("true", "synthetic"),
        "spec": SPEC,
        "tokenizer": byte_tokens,
        "batch_size": 6,
        "seed": 1,
        "on_problem": problems.append,
    }
    stream = make_reinforced_batches(dataset, Stored(knowledge), **options | more)
    return list(islice(stream, count)), problems


def assert_same(ours: Sequence[ReinforcedBatch], others: Sequence[ReinforcedBatch]) -> None:
    assert len(ours) == len(others)
    for one, two in zip(ours, others, strict=True):
        for name in FIELDS:
            assert torch.equal(getattr(one, name), getattr(two, name)), name


def test_every_row_is_what_was_stored_about_its_picture(dataset: DataSet, knowledge: Reinforced) -> None:
    batches, _ = take(dataset, knowledge, 8)
    for batch in batches:
        assert (batch.images.shape, batch.tokens.shape) == ((6, 3, 24, 24), (6, 2, LENGTH))
        assert (batch.teacher_image.shape, batch.teacher_texts.shape) == ((6, 48 + 40), (6, 2, 48 + 40))
        for row, i in enumerate(batch.indices.tolist()):
            sample = dataset.sample(i)
            stored = [torch.cat(knowledge.image_embeds(i, a)) for a in range(knowledge.augmentations)]
            (a,) = (a for a, embeds in enumerate(stored) if torch.equal(embeds, batch.teacher_image[row]))
            picture = replay(open_image(sample.image), knowledge.params(i, a), SPEC.size, SPEC.interpolation)
            assert np.array_equal(batch.images[row].numpy(), normalize(np.asarray(picture), SPEC))
            captions = {one.text: one for one in knowledge.captions(i, sample)}
            for t, synthetic in enumerate((False, True)):
                caption = captions[text_of(batch.tokens[row, t])]
                assert caption.synthetic is synthetic
                assert torch.equal(torch.cat(knowledge.text_embeds(i, caption)), batch.teacher_texts[row, t])


def test_augmentations_and_captions_are_drawn_uniformly_and_apart(dataset: DataSet, knowledge: Reinforced) -> None:
    batches, _ = take(dataset, knowledge, 4 * 60)
    seen: Counter[tuple[int, str]] = Counter()
    for batch in batches:
        for row, i in enumerate(batch.indices.tolist()):
            embeds = [torch.cat(knowledge.image_embeds(i, a)) for a in range(knowledge.augmentations)]
            a = next(a for a, one in enumerate(embeds) if torch.equal(one, batch.teacher_image[row]))
            seen[a, text_of(batch.tokens[row, 1])[-1]] += 1
    assert len(seen) == 3 * 2  # three augmentations, two synthetic captions each
    assert min(seen.values()) > 0.8 * 1440 / 6
    assert max(seen.values()) < 1.2 * 1440 / 6


def test_pictures_come_in_the_order_of_the_plain_loader(dataset: DataSet, knowledge: Reinforced) -> None:
    plain = make_batches(
        dataset, spec=SPEC, tokenizer=byte_tokens, batch_size=6, seed=1, on_problem=lambda problem: None
    )
    ours, _ = take(dataset, knowledge, 9)
    for one, two in zip(ours, plain, strict=False):
        assert one.indices.tolist() == two.indices.tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(dataset: DataSet, knowledge: Reinforced, workers: int) -> None:
    assert_same(take(dataset, knowledge, 7)[0], take(dataset, knowledge, 7, workers=workers)[0])


@pytest.mark.parametrize("start", [1, 4, 6])
def test_resuming_gives_the_batches_of_an_undisturbed_run(dataset: DataSet, knowledge: Reinforced, start: int) -> None:
    whole, _ = take(dataset, knowledge, 8)
    assert_same(whole[start:], take(dataset, knowledge, 8 - start, start_step=start)[0])


def test_ranks_share_the_global_batch_in_order(dataset: DataSet, knowledge: Reinforced) -> None:
    whole, _ = take(dataset, knowledge, 5)
    parts = [take(dataset, knowledge, 5, rank=rank, world_size=3)[0] for rank in range(3)]
    for step, batch in enumerate(whole):
        for name in FIELDS:
            joined = torch.cat([getattr(part[step], name) for part in parts])
            assert torch.equal(joined, getattr(batch, name)), name


def test_one_kind_of_captions_alone(dataset: DataSet, knowledge: Reinforced) -> None:
    ([batch], _), ([other], _) = (take(dataset, knowledge, 1, kinds=(kind,)) for kind in ("true", "synthetic"))
    assert batch.tokens.shape == (6, 1, LENGTH)
    assert all(text_of(row[0]).startswith("noise") for row in batch.tokens)
    assert all(text_of(row[0]).startswith("synthetic") for row in other.tokens)


def test_a_picture_without_knowledge_stays_out_and_is_counted_once(dataset: DataSet, knowledge: Reinforced) -> None:
    batches, problems = take(dataset, knowledge, 12)
    seen = torch.cat([batch.indices for batch in batches]).tolist()
    assert BROKEN not in seen
    assert seen.count(BROKEN + 1) == 6  # three epochs, for itself and for the one before it
    assert [(one.key, one.reason) for one in problems] == [
        ("000010", "the picture could not be read when the knowledge was stored")
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_another_picture_is_refused_word_by_word_from_any_process(
    options: Options, made: tuple[Work, Path], knowledge: Reinforced, tmp_path: Path, workers: int
) -> None:
    folder = Path(shutil.copytree(options.data, tmp_path / "data"))
    shard = folder / "train" / "shard-000000.tar"
    original = open_dataset(folder)
    picture, content = original.sample(1).image, shard.read_bytes()
    swapped = picture[:-20] + bytes(20)
    shard.write_bytes(content.replace(picture, swapped))
    path = made[1] / "train" / "shard-000000.reinforce.safetensors"
    with pytest.raises(ArtifactError) as caught:
        take(open_dataset(folder), knowledge, 4, workers=workers)
    assert str(caught.value) == (
        f"the picture `000001` is not the one that was described: its bytes differ\n  in: {path}\n\n"
        f"hint: use the pictures that this was made from, or delete {path.name} and run `clip-edge reinforce` again"
    )


def test_batches_that_cannot_be(dataset: DataSet, knowledge: Reinforced) -> None:
    with pytest.raises(UsageError, match="the batch of 25 does not fit the data set of 24 samples"):
        take(dataset, knowledge, 1, batch_size=25)
    with pytest.raises(UsageError, match="a batch of 6 cannot be split evenly over 4 processes"):
        take(dataset, knowledge, 1, world_size=4)


CAPTIONS = (
    Caption("a cat", "en", False, 0),
    Caption("a small cat", "en", False, 1),
    Caption("eine Katze", "de", False, 2),
    Caption("cat!", "en", True, 3),
)


def draws(captions: Sequence[Caption], langs: Sequence[str]) -> list[set[int]]:
    rng = random.Random(0)
    pairs = [draw_captions(captions, ("true", "synthetic"), langs, rng) for _ in range(50)]
    return [{caption.number for caption in column} for column in zip(*pairs, strict=True)]


def test_captions_are_drawn_by_kind_and_language() -> None:
    assert draws(CAPTIONS, ()) == [{0, 1, 2}, {3}]
    assert draws(CAPTIONS, ("en",)) == [{0, 1}, {3}]
    assert draws(CAPTIONS, ("de",)) == [{2}, {3}]  # no German synthetic one: one of another language
    assert draws(CAPTIONS[:3], ("de",)) == [{2}, {2}]  # no synthetic one: a true one
    with pytest.raises(DataError, match="no caption in the languages of the stored knowledge"):
        draws((), ())
