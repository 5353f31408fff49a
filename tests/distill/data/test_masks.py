"""Masks of objects and prompts for them, on real scenes and on faults."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clip_edge.distill.data.masks import box_prompt, point_prompt, read_objects
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.samples import Sample
from clip_edge.errors import DataError
from clip_edge.graphs import BOTTOM_RIGHT, INSIDE, PADDING, TOP_LEFT
from clip_edge.preprocess import PreprocessSpec

SPEC = PreprocessSpec(48)


@pytest.fixture(scope="module")
def sample(tiny_emoji: Path) -> Sample:
    dataset = open_dataset(tiny_emoji, "test")
    return next(one for one in (dataset.sample(i) for i in range(len(dataset))) if len(one.objects) > 1)


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(out, "PNG")
    return out.getvalue()


def with_mask(sample: Sample, pixels: np.ndarray) -> Sample:
    return dataclasses.replace(sample, mask=png(pixels))


def square(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((48, 48), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_every_object_has_its_mask_and_its_class(sample: Sample):
    found = read_objects(sample, (48, 48), SPEC)
    assert found.classes == sample.objects == sample.classes
    assert found.masks.shape == (len(sample.objects), 48, 48)
    assert found.masks.any(axis=(1, 2)).all()
    assert found.masks.sum(axis=0).max() == 1  # a pixel shows one object


def test_masks_are_resized_without_new_numbers(sample: Sample):
    whole, half = (read_objects(sample, (48, 48), PreprocessSpec(size)).masks for size in (48, 24))
    assert half.shape[1:] == (24, 24)
    np.testing.assert_array_equal(half, whole[:, 1::2, 1::2])


def test_an_object_that_is_cropped_away_is_not_there(sample: Sample):
    wide = np.zeros((48, 96), np.uint8)
    wide[10:20, 2:12], wide[10:20, 40:60] = 1, 2
    found = read_objects(with_mask(sample, wide), (96, 48), SPEC)
    assert found.classes == (sample.objects[1],)
    np.testing.assert_array_equal(found.masks[0], square(16, 10, 36, 20))


def test_an_empty_mask_is_a_picture_without_objects(sample: Sample):
    found = read_objects(with_mask(sample, np.zeros((48, 48), np.uint8)), (48, 48), SPEC)
    assert (found.masks.shape, found.classes) == ((0, 48, 48), ())


def test_no_mask(sample: Sample):
    with pytest.raises(DataError) as raised:
        read_objects(dataclasses.replace(sample, mask=None), (48, 48), SPEC)
    assert str(raised.value) == (
        "no mask beside the picture\n\nhint: the built-in data set has masks: `clip-edge data emoji`"
    )


def test_a_mask_of_another_size(sample: Sample):
    with pytest.raises(DataError) as raised:
        read_objects(with_mask(sample, np.ones((32, 40), np.uint8)), (48, 48), SPEC)
    assert str(raised.value) == "the mask is 40x32, its picture 48x48"


def test_a_number_that_no_object_has(sample: Sample):
    with pytest.raises(DataError) as raised:
        read_objects(with_mask(sample, np.full((48, 48), 9, np.uint8)), (48, 48), SPEC)
    assert str(raised.value) == f"the mask has a number 9, and the sample lists {len(sample.objects)} objects"


def test_a_coloured_mask(sample: Sample):
    coloured = dataclasses.replace(sample, mask=png(np.zeros((48, 48, 3), np.uint8)))
    with pytest.raises(DataError) as raised:
        read_objects(coloured, (48, 48), SPEC)
    assert str(raised.value) == "a mask has one number of 8 bits for each pixel; found a picture of mode `RGB`"


def test_a_mask_with_a_palette_counts_by_its_numbers(sample: Sample):
    image = Image.fromarray(square(4, 4, 9, 9).astype(np.uint8)).convert("P")
    image.putpalette([9, 9, 9, 200, 0, 0])
    out = io.BytesIO()
    image.save(out, "PNG")
    found = read_objects(dataclasses.replace(sample, mask=out.getvalue()), (48, 48), SPEC)
    np.testing.assert_array_equal(found.masks[0], square(4, 4, 9, 9))


def test_a_box_has_two_corners():
    points, labels = box_prompt(square(12, 6, 36, 48))
    np.testing.assert_allclose(points, [[0.25, 0.125], [0.75, 1.0]])
    assert labels.tolist() == [TOP_LEFT, BOTTOM_RIGHT]


@given(seed=st.integers(0, 1000), jitter=st.floats(0.01, 0.3))
def test_a_jittered_box_stays_near_and_inside(seed: int, jitter: float):
    exact, _ = box_prompt(square(12, 6, 36, 48))
    points, _ = box_prompt(square(12, 6, 36, 48), np.random.default_rng(seed), jitter)
    assert ((points >= 0) & (points <= 1)).all()
    assert (abs(points - exact) <= 2 * jitter * (exact[1] - exact[0]) + 1e-6).all()


@given(seed=st.integers(0, 1000))
def test_a_point_lies_on_the_object(seed: int):
    mask = square(12, 6, 14, 9)
    points, labels = point_prompt(mask, np.random.default_rng(seed))
    x, y = (points[0] * 48).astype(int)
    assert mask[y, x]
    assert (labels.tolist(), points[1].tolist()) == ([INSIDE, PADDING], [0, 0])
