"""Segmentation by names: counts by hand, real scenes with an untrained student, and pictures that cannot be used."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.samples import DataSet, Sample
from clip_edge.distill.models.checkpoint import LoadedStudent
from clip_edge.distill.models.spec import HeadSpec, ImageSpec, MaskSpec, StudentSpec, TextTowerSpec, TokenizerSpec
from clip_edge.distill.models.student import build_student
from clip_edge.distill.models.tokenizers import train_tokenizer
from clip_edge.distill.segmentation import Confusion, segmentation
from clip_edge.errors import ConfigError, DataError

PLAIN = ImageSpec(tower="timm:test_efficientnet", size=32)


def load(data: Path, image: ImageSpec, masks: MaskSpec | None) -> LoadedStudent:
    """A small untrained student."""
    captions = [text for i in range(16) for text in open_dataset(data).sample(i).captions["en"]]
    tokenizer = train_tokenizer(captions, 400, 16)
    text = TextTowerSpec(depth=1, width=32, heads=2, context_length=16, causal=False, pad_mask=True)
    known = TokenizerSpec("trained", tokenizer.spec.vocab_size)
    spec = StudentSpec(name="tiny", embed_dim=16, image=image, text=text, tokenizer=known, masks=masks)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = build_student(spec, tokenizer).eval()
    return LoadedStudent(student, spec, tokenizer, spec.image.preprocess(), Path(), {})


@pytest.fixture(scope="module")
def plain(tiny_emoji: Path) -> LoadedStudent:
    return load(tiny_emoji, PLAIN, None)


@pytest.fixture(scope="module")
def merged(tiny_emoji: Path) -> LoadedStudent:
    head = HeadSpec((2, 3), width=16, depth=1, heads=2)
    return load(tiny_emoji, dataclasses.replace(PLAIN, head=head, hidden=16), MaskSpec(16, 1, 2))


@dataclasses.dataclass(frozen=True)
class Changed(DataSet):
    """A data set whose samples were tampered with."""

    change: Callable[[Sample], Sample] = lambda sample: sample

    def sample(self, i: int) -> Sample:
        return self.change(super().sample(i))


def changed(dataset: DataSet, change: Callable[[Sample], Sample]) -> Changed:
    values = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(DataSet)}
    return Changed(**values, change=change)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def scenes(tiny_emoji: Path) -> DataSet:
    return open_dataset(tiny_emoji, "test")


def test_iou_by_hand():
    """Two classes and the background; class 1 never occurs, and is found once where class 0 is."""
    found = Confusion.of(2)
    found.add(np.array([[0, 0, -1, -1]], np.int16), np.array([[0, 1, 0, -1]], np.int16))
    found.add(np.array([[0, -1]], np.int16), np.array([[0, -1]], np.int16))
    ious = found.ious()
    assert ious[0] == pytest.approx(2 / 4)  # found twice, missed once, seen once where it is not
    assert np.isnan(ious[1])
    assert ious[2] == pytest.approx(2 / 3)


def test_a_plain_student_finds_by_its_patches(plain: LoadedStudent, scenes: DataSet):
    found = segmentation(plain, scenes, limit=4)
    assert (found["images"], found["map"], found["lang"], found["skipped"]) == (4, [1, 1], "en", [])
    assert found["classes"] == sum(one.split == "seen" for one in scenes.classes)
    assert found["both_heads"] is None
    assert found["prompted"] is None
    assert all(0 <= found["clip_head"][name] <= 1 for name in ("miou", "background_iou", "miou_on_objects"))


def test_a_merged_student_is_measured_with_both_heads_and_by_prompts(merged: LoadedStudent, scenes: DataSet):
    found = segmentation(merged, scenes, lang="zh", limit=4)
    assert (found["map"], found["lang"]) == ([4, 4], "zh")
    for way in ("clip_head", "both_heads"):
        assert all(0 <= found[way][name] <= 1 for name in ("miou", "background_iou", "miou_on_objects"))
    assert found["prompted"]["objects"] >= 4
    assert 0 <= found["prompted"]["box"]["iou"] <= 1


def test_the_names_of_unseen_things_are_the_candidates_of_their_split(plain: LoadedStudent, tiny_emoji: Path):
    found = segmentation(plain, open_dataset(tiny_emoji, "unseen"), limit=2)
    assert found["classes"] == 4


def test_an_empty_mask_is_all_background(plain: LoadedStudent, scenes: DataSet):
    first = scenes.sample(0).key
    emptied = changed(
        scenes,
        lambda one: dataclasses.replace(one, mask=png(np.zeros((48, 48), np.uint8))) if one.key == first else one,
    )
    found = segmentation(plain, emptied, limit=4)
    assert (found["images"], found["skipped"]) == (4, [])


def test_a_mask_of_another_size_leaves_the_picture_out(plain: LoadedStudent, scenes: DataSet):
    first = scenes.sample(0).key
    cut = changed(
        scenes,
        lambda one: dataclasses.replace(one, mask=png(np.ones((24, 48), np.uint8))) if one.key == first else one,
    )
    found = segmentation(plain, cut, limit=4)
    assert found["images"] == 3
    assert found["skipped"] == [{"key": first, "reason": "the mask is 48x24, its picture 48x48"}]


def test_pictures_without_masks(plain: LoadedStudent, scenes: DataSet):
    bare = changed(scenes, lambda one: dataclasses.replace(one, mask=None))
    with pytest.raises(DataError) as raised:
        segmentation(plain, bare, limit=4)
    assert str(raised.value) == (
        f"no picture of openmoji-scenes has a mask that can be used\n  in: {scenes.sample(0).key}\n\n"
        "hint: the first was left out because: no mask beside the picture"
    )


def test_a_language_without_names(plain: LoadedStudent, scenes: DataSet):
    with pytest.raises(DataError) as raised:
        segmentation(plain, scenes, lang="xx")
    assert str(raised.value) == (
        "no class names in language `xx` in openmoji-scenes\n\n"
        "hint: segmentation by names needs classes, as the built-in data set has them"
    )


def test_a_model_that_only_embeds(plain: LoadedStudent, scenes: DataSet):
    foreign = dataclasses.replace(plain, student=torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as raised:
        segmentation(foreign, scenes)
    assert str(raised.value) == (
        "segmentation needs the feature map of a student folder; this model only embeds whole pictures\n\n"
        "hint: measure the student that it was made from, or a bundle with graphs for segmentation"
    )
