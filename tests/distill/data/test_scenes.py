import random
import re

import numpy as np
import pytest
from PIL import Image

from clip_edge.distill.data.captions import languages
from clip_edge.distill.data.emoji import render, usable_emoji
from clip_edge.distill.data.scenes import (
    COLOURS,
    MAX_OVERLAP,
    PATTERNS,
    Drawing,
    SceneSpec,
    background,
    compose,
    find_relation,
)

ALL = tuple(languages())


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    found = []
    for emoji in usable_emoji()[::60]:
        sprite = render(emoji, 80)
        assert sprite is not None
        found.append(Drawing(emoji.id, sprite.image(), emoji.names))
    return found


@pytest.fixture(scope="module")
def scenes(drawings):
    spec = SceneSpec(seed=5, size=64, langs=("en",), objects=(1, 4))
    return [compose(drawings, "train", i, spec) for i in range(120)]


def test_a_scene_is_a_pure_function_of_seed_split_and_index(drawings):
    spec = SceneSpec(seed=1, size=64, langs=("en",), objects=(1, 4))
    other = SceneSpec(seed=2, size=64, langs=("en",), objects=(1, 4))
    first = compose(drawings, "train", 3, spec)
    again = compose(drawings, "train", 3, spec)
    assert np.array_equal(first.image, again.image)
    assert first.captions == again.captions
    for changed in (
        compose(drawings, "val", 3, spec),
        compose(drawings, "train", 4, spec),
        compose(drawings, "train", 3, other),
    ):
        assert not np.array_equal(first.image, changed.image)


def test_asking_for_more_languages_does_not_change_the_picture(drawings):
    one = compose(drawings, "train", 0, SceneSpec(1, 64, ("fr",), (1, 4)))
    all_ = compose(drawings, "train", 0, SceneSpec(1, 64, ALL, (1, 4)))
    assert np.array_equal(one.image, all_.image)
    assert one.captions["fr"] == all_.captions["fr"]
    assert list(all_.captions) == list(ALL)


def test_numbers_of_objects_colours_and_patterns_all_occur(scenes):
    assert {len(scene.ids) for scene in scenes} == {1, 2, 3, 4}
    assert {scene.colour for scene in scenes} == set(COLOURS)
    assert {scene.pattern for scene in scenes} == set(PATTERNS)
    assert all(len(set(scene.ids)) == len(scene.ids) for scene in scenes)


def test_boxes_and_areas_are_those_of_the_mask(scenes):
    for scene in scenes:
        assert set(np.unique(scene.mask)) <= set(range(len(scene.ids) + 1))
        for number, (box, area) in enumerate(zip(scene.boxes, scene.areas_px, strict=True), start=1):
            ys, xs = np.nonzero(scene.mask == number)
            assert box == (xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)
            assert area == len(xs) > 20


def test_objects_hardly_hide_each_other(scenes):
    for scene in scenes:
        for i, one in enumerate(scene.boxes):
            for two in scene.boxes[:i]:
                wide = min(one[0] + one[2], two[0] + two[2]) - max(one[0], two[0])
                high = min(one[1] + one[3], two[1] + two[3]) - max(one[1], two[1])
                smaller = min(one[2] * one[3], two[2] * two[3])
                assert max(wide, 0) * max(high, 0) / smaller <= MAX_OVERLAP + 0.1  # hidden parts shrink a box a little


def test_pixels_outside_the_masks_are_background(scenes):
    for scene in scenes:
        if scene.pattern != "plain":
            continue
        values, counts = np.unique(scene.image[scene.mask == 0].reshape(-1, 3), axis=0, return_counts=True)
        assert counts.max() / counts.sum() > 0.7, "one colour covers what no object covers, but for smooth edges"
        assert len(values) > 1


def test_every_relation_in_a_caption_is_true_of_the_boxes(scenes):
    checked = 0
    words = {"to the left of": "left", "to the right of": "right", "above": "above", "below": "below"}
    for scene in scenes:
        if scene.relation is None:
            assert len(scene.captions["en"]) == 2
            continue
        one, two = scene.boxes[scene.relation.first], scene.boxes[scene.relation.second]
        text = scene.captions["en"][1]
        [phrase] = [phrase for phrase in words if f" {phrase} " in text]
        assert words[phrase] == scene.relation.kind
        assert {
            "left": one[0] + one[2] <= two[0],
            "right": one[0] >= two[0] + two[2],
            "above": one[1] + one[3] <= two[1],
            "below": one[1] >= two[1] + two[3],
        }[scene.relation.kind]
        checked += 1
    assert checked > 60


def test_the_number_in_a_caption_is_the_number_of_objects(scenes):
    for scene in scenes:
        word = re.match(r"(one|two|three|four) emoji ", scene.captions["en"][-1])
        assert word is not None
        assert ("one", "two", "three", "four").index(word[1]) + 1 == len(scene.ids)


def test_no_relation_between_boxes_that_overlap_on_both_axes():
    rng = random.Random(0)
    assert find_relation([(0, 0, 10, 10), (9, 9, 10, 10)], rng) is None
    assert find_relation([(0, 0, 10, 10)], rng) is None
    assert find_relation([(0, 0, 10, 10), (10, 9, 10, 10)], rng).kind in ("left", "right")


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("colour", COLOURS)
def test_a_background_keeps_the_hue_of_its_word(colour, pattern):
    hue_deg, _, _ = COLOURS[colour]
    for seed in range(3):
        pixels = background(colour, pattern, 32, random.Random(seed))
        hsv = np.asarray(Image.fromarray(pixels).convert("HSV"), dtype=float).reshape(-1, 3)
        if colour in ("grey", "white"):
            assert hsv[:, 1].max() < 16
            assert (hsv[:, 2].min() > 230) == (colour == "white")
        else:
            away = np.abs((hsv[:, 0] / 255 * 360 - hue_deg + 180) % 360 - 180)
            assert away.max() < 12
