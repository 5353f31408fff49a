"""The picture that shows a segmentation."""

from __future__ import annotations

import numpy as np
from PIL import Image

from clip_edge.overlay import COLOURS, LINE_PX, STRENGTH, overlay


def test_colours_lie_over_their_pixels_and_names_below() -> None:
    labels = np.full((100, 300), -1, np.int16)
    labels[10:50, 20:80] = 0
    labels[60:90, 200:290] = 1
    shown = np.asarray(overlay(Image.new("RGB", (300, 100), (0, 0, 0)), labels, ["a cat", "a dog"]))
    assert shown.shape == (100 + 2 * LINE_PX, 300, 3)
    assert tuple(shown[5, 5]) == (0, 0, 0)
    assert tuple(shown[30, 40]) == tuple(int(STRENGTH * value) for value in COLOURS[0])
    assert tuple(shown[10, 20]) == COLOURS[0]
    assert tuple(shown[60, 200]) == COLOURS[1]
    assert tuple(shown[100 + LINE_PX // 2, 8]) == COLOURS[0]


def test_small_pictures_are_enlarged() -> None:
    shown = overlay(Image.new("RGB", (96, 48)), np.full((48, 96), -1, np.int16), ["a cat"])
    assert shown.size == (288, 144 + LINE_PX)
