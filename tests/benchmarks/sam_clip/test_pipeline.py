"""What the pipeline of two models makes of masks: crops, copies, and a label for each pixel."""

from __future__ import annotations

import numpy as np

from clip_edge.benchmarks.sam_clip.pipeline import crop, distinct, painted
from clip_edge.segment import NOTHING, Mask


def box(top: int, bottom: int, left: int, right: int, size: int = 20) -> Mask:
    mask = np.zeros((size, size), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_crop_is_a_square_around_the_thing_inside_the_picture() -> None:
    square = np.arange(40 * 40 * 3, dtype=np.uint32).reshape(40, 40, 3).astype(np.uint8)
    found = crop(square, box(5, 10, 5, 15))  # 10 of 20 wide: 20 of 40 pixels, and a fifth more
    assert found.shape == (24, 24, 3)
    assert np.array_equal(found, square[3:27, 8:32])
    corner = crop(square, box(0, 10, 0, 10))
    assert np.array_equal(corner, square[:24, :24])
    assert np.array_equal(crop(square, box(0, 20, 0, 20)), square)


def test_copies_and_bad_or_huge_masks_go() -> None:
    masks = np.stack([box(0, 10, 0, 10), box(0, 10, 0, 9), box(12, 18, 12, 18), box(0, 20, 0, 20), box(1, 5, 12, 16)])
    kept = distinct(masks, np.array([0.8, 0.9, 0.95, 0.99, 0.5], np.float32))
    assert [np.array_equal(one, masks[index]) for one, index in zip(kept, (2, 1), strict=True)] == [True, True]


def test_small_things_lie_over_large_ones_and_background_words_are_nothing() -> None:
    masks = [box(0, 4, 0, 4), box(0, 10, 0, 10), box(12, 18, 12, 18)]
    scores = np.array([[0.9, 0.1, 0.2], [0.1, 0.9, 0.2], [0.1, 0.2, 0.9], [0.8, 0.1, 0.0]], np.float32)
    labels = painted(masks, scores, 2, 20)
    assert labels[2, 2] == 0
    assert labels[8, 8] == 1
    assert labels[15, 15] == NOTHING  # its word is one of the background
    assert labels[19, 0] == NOTHING
    filled = painted(masks, scores[:, :2], 2, 20, fill=True)
    assert filled[19, 0] == 0  # the whole picture's name
    assert filled[15, 15] == 1


def test_without_masks_the_whole_picture_speaks() -> None:
    scores = np.array([[0.2, 0.7]], np.float32)
    assert (painted([], scores, 2, 4, fill=True) == 1).all()
    assert (painted([], scores, 2, 4) == NOTHING).all()
