"""Online teachers: the same interface as stored knowledge, asked at every step."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clip_edge.distill.data.augment import Augment, AugmentSpec
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.samples import DataSet
from clip_edge.distill.reinforce.batches import ReinforcedBatch, make_reinforced_batches
from clip_edge.distill.reinforce.online import Online
from clip_edge.distill.teacher import Teacher, load_teacher
from clip_edge.errors import ConfigError, UsageError
from clip_edge.images import open_image
from clip_edge.preprocess import PreprocessSpec

SPEC = PreprocessSpec(size=24)
STRONG = AugmentSpec(crop_scale=(0.3, 1.0), randaugment_ops=2)


@pytest.fixture(scope="module")
def loaded(teachers: list[str]) -> list[Teacher]:
    return [load_teacher(spec, device="cpu") for spec in teachers]


@pytest.fixture(scope="module")
def scenes(tiny_emoji: Path) -> DataSet:
    return open_dataset(tiny_emoji)


class Spoken:
    """A tokenizer that notes what it was given."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += texts
        return np.ones((len(texts), 4), dtype=np.int64)


def take(dataset: DataSet, loaded: list[Teacher], count: int, **more: Any) -> list[ReinforcedBatch]:
    captioner = more.pop("captioner", "rewrite")
    source = Online(loaded, augment=more.pop("augment", STRONG), captioner=captioner, at_once=more.pop("at_once", 64))
    options: dict[str, Any] = {
        "kinds": ("true", "synthetic"),
        "spec": SPEC,
        "tokenizer": Spoken(),
        "batch_size": 4,
        "seed": 1,
        "on_problem": lambda problem: None,
        "langs": ("en",),
    }
    return list(islice(make_reinforced_batches(dataset, source, **options | more), count))


def test_teachers_see_the_augmentation_of_the_student_at_their_own_size(scenes: DataSet, loaded: list[Teacher]) -> None:
    spoken = Spoken()
    [batch] = take(scenes, loaded, 1, tokenizer=spoken)
    assert (batch.tokens.shape, batch.teacher_image.shape, batch.teacher_texts.shape) == (
        (4, 2, 4),
        (4, 88),
        (4, 2, 88),
    )
    for row, i in enumerate(batch.indices.tolist()):
        image = open_image(scenes.sample(i).image)
        views = [Augment(STRONG, teacher.info.preprocess)(image, (1, 0, i))[None] for teacher in loaded]
        seen = torch.cat([teacher.encode_images(view) for teacher, view in zip(loaded, views, strict=True)], dim=-1)
        torch.testing.assert_close(batch.teacher_image[row], seen[0], rtol=0, atol=1e-5)
        true, synthetic = spoken.texts[2 * row : 2 * row + 2]
        read = torch.cat([teacher.encode_texts([true, synthetic]) for teacher in loaded], dim=-1)
        torch.testing.assert_close(batch.teacher_texts[row], read, rtol=0, atol=1e-5)
        assert true in scenes.sample(i).captions["en"]
        assert synthetic not in scenes.sample(i).captions["en"]


def test_a_crop_shows_every_size_the_same(scenes: DataSet) -> None:
    """The views are drawn from one seed: a small one is a large one made smaller."""
    crop = AugmentSpec(crop_scale=(0.2, 0.5), flip=0.5)
    large, small = (PreprocessSpec(size=size, interpolation="bilinear") for size in (96, 24))
    for i in range(6):
        image = open_image(scenes.sample(i).image)
        one, two = (Augment(crop, spec)(image, (0, 3, i)).astype(float) for spec in (large, small))
        shrunk = one.reshape(24, 4, 24, 4, 3).mean(axis=(1, 3))
        assert np.abs(shrunk - two).mean() < 6


def test_resuming_ranks_and_pieces_change_nothing(scenes: DataSet, loaded: list[Teacher]) -> None:
    whole = take(scenes, loaded, 3)
    resumed = take(scenes, loaded, 1, start_step=2)
    halves = [take(scenes, loaded, 3, rank=rank, world_size=2)[2] for rank in range(2)]
    pieces = take(scenes, loaded, 3, at_once=3)
    for name in ("images", "tokens", "teacher_image", "teacher_texts", "indices"):
        expected = getattr(whole[2], name)
        for other in (getattr(resumed[0], name), torch.cat([getattr(half, name) for half in halves])):
            torch.testing.assert_close(other, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(getattr(pieces[2], name), expected, rtol=0, atol=1e-6)


def test_teachers_stay_frozen_in_a_training_step(scenes: DataSet, loaded: list[Teacher]) -> None:
    loaded[0].model.train()  # by mistake
    [batch] = take(scenes, loaded, 1)
    assert not batch.teacher_image.requires_grad
    assert not batch.teacher_texts.requires_grad
    for teacher in loaded:
        assert not teacher.model.training
        assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def test_reading_travels_to_processes(scenes: DataSet, loaded: list[Teacher]) -> None:
    source = Online(loaded, augment=STRONG, captioner="rewrite", at_once=8)
    reader = source.reader(scenes, SPEC, ("true", "synthetic"), ("en",), 1)
    again = pickle.loads(pickle.dumps(reader))
    assert again(0, 5).texts == reader(0, 5).texts
    assert np.array_equal(again(0, 5).pixels, reader(0, 5).pixels)


def test_slow_and_unfitting_captioners_are_refused(
    scenes: DataSet, dataset_without_scenes: DataSet, loaded: list[Teacher]
) -> None:
    with pytest.raises(ConfigError) as caught:
        take(scenes, loaded, 1, captioner="open_clip:coca_ViT-B-32:x")
    assert str(caught.value) == (
        "the captioner `open_clip:coca_ViT-B-32:x` is too slow to be asked at every step\n\n"
        "hint: store its captions once with `clip-edge reinforce`, or use rewrite or file:F.jsonl"
    )
    with pytest.raises(UsageError, match="the captioner `rewrite` needs the built-in data set"):
        take(dataset_without_scenes, loaded, 1)
    [batch] = take(dataset_without_scenes, loaded, 1, kinds=("true",))
    assert batch.tokens.shape == (4, 1, 4)


@pytest.fixture(scope="module")
def dataset_without_scenes(shards: Path) -> DataSet:
    return open_dataset(shards)


def test_other_teachers_have_another_id(loaded: list[Teacher]) -> None:
    ids = {Online(some, augment=STRONG, captioner="", at_once=8).id for some in (loaded, loaded[:1], loaded[::-1])}
    assert len(ids) == 3
