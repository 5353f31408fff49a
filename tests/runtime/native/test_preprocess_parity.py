"""The native picture path against Pillow, byte by byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_edge.images import TURNS
from clip_edge.preprocess import Bytes, PreprocessSpec, normalize, to_pixels

RANDOM = np.random.default_rng(11)


def picture(width: int, height: int) -> Bytes:
    """Half noise, half smooth: noise finds rounding errors, edges find overshoot."""
    smooth = np.add.outer(np.linspace(0, 255, height), np.linspace(0, 255, width))[..., None] * [0.5, 0.3, 0.5]
    noise = RANDOM.integers(0, 256, (height, width, 3))
    return np.where(RANDOM.random((height, width, 1)) < 0.5, noise, smooth).astype(np.uint8)


def specs(count: int) -> list[PreprocessSpec]:
    return [
        PreprocessSpec(
            size=int(RANDOM.integers(1, 300)),
            resize=("shortest", "squash", "shortest_floor")[i % 3],  # type: ignore[arg-type]
            interpolation=("bilinear", "bicubic")[i // 3 % 2],  # type: ignore[arg-type]
        )
        for i in range(count)
    ]


def test_five_hundred_sizes_equal_pillow_to_the_last_bit(library: Any) -> None:
    for spec in specs(500):
        width, height = (int(side) for side in RANDOM.integers(1, 500, 2))
        pixels = picture(width, height)
        expected = to_pixels(Image.fromarray(pixels), spec)
        found = library.resize(spec, library.image([pixels], width, height))
        np.testing.assert_array_equal(found, expected, err_msg=f"{width}x{height} {spec}")


@pytest.mark.parametrize(
    "sides", [(1, 1), (3, 700), (700, 3), (1500, 1100), (400, 3000), (224, 224), (224, 500), (500, 224)]
)
def test_extreme_and_equal_sizes(library: Any, sides: tuple[int, int]) -> None:
    pixels = picture(*sides)
    for interpolation in ("bilinear", "bicubic"):
        spec = PreprocessSpec(size=224, interpolation=interpolation)  # type: ignore[arg-type]
        found = library.resize(spec, library.image([pixels], *sides))
        np.testing.assert_array_equal(found, to_pixels(Image.fromarray(pixels), spec))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_equal_pillow(library: Any, orientation: int) -> None:
    pixels = picture(211, 97)
    image = Image.fromarray(pixels)
    upright = image.transpose(TURNS[orientation]) if orientation in TURNS else image
    for spec in specs(8):
        found = library.resize(spec, library.image([pixels], 211, 97, orientation=orientation))
        np.testing.assert_array_equal(found, to_pixels(upright, spec))


def test_transparency_lies_over_white_as_pillow_lays_it(library: Any) -> None:
    values, alphas = np.meshgrid(np.arange(256), np.arange(256))
    rgba = np.dstack([values, 255 - values, values // 2, alphas]).astype(np.uint8)  # every value with every alpha
    layer = Image.fromarray(rgba)
    expected = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    spec = PreprocessSpec(size=256)
    np.testing.assert_array_equal(library.resize(spec, library.image([rgba], 256, 256, 2)), np.asarray(expected))
    bgra = np.ascontiguousarray(rgba[..., [2, 1, 0, 3]])
    np.testing.assert_array_equal(library.resize(spec, library.image([bgra], 256, 256, 3)), np.asarray(expected))


def test_grey_equals_pillow(library: Any) -> None:
    grey = np.ascontiguousarray(picture(120, 77)[..., 0])
    for spec in specs(12):
        expected = to_pixels(Image.fromarray(grey).convert("RGB"), spec)
        np.testing.assert_array_equal(library.resize(spec, library.image([grey], 120, 77, 4)), expected)


MATRICES = [
    (0.299, 0.114, 0, 1.0, 1.0),
    (0.299, 0.114, 16, 255 / 219, 255 / 224),
    (0.2126, 0.0722, 16, 255 / 219, 255 / 224),
]


@pytest.mark.parametrize("matrix", range(3))
def test_camera_frames_follow_the_standard(library: Any, matrix: int) -> None:
    """NV12, NV21 and I420 against the matrices written in floating point: at most one level apart."""
    red, blue, offset, luma_scale, chroma_scale = MATRICES[matrix]
    luma = RANDOM.integers(0, 256, (64, 64), dtype=np.uint8)
    u, v = RANDOM.integers(0, 256, (2, 32, 32), dtype=np.uint8)
    y = (luma.astype(float) - offset) * luma_scale
    cb, cr = ((np.kron(plane, np.ones((2, 2))) - 128) * chroma_scale for plane in (u, v))
    green = 1 - red - blue
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    g = y - 2 * (1 - red) * red / green * cr - 2 * (1 - blue) * blue / green * cb
    expected = np.clip(np.round(np.dstack([r, g, b])), 0, 255)
    spec = PreprocessSpec(size=64)
    nv12, nv21 = (np.ascontiguousarray(np.dstack(pair).reshape(32, 64)) for pair in ((u, v), (v, u)))
    for format, planes in ((5, [luma, nv12]), (6, [luma, nv21]), (7, [luma, u, v])):
        found = library.resize(spec, library.image(planes, 64, 64, format, yuv=matrix)).astype(float)
        assert np.abs(found - expected).max() <= 1
        assert (found == expected).mean() > 0.999


def test_normalised_floats_are_identical(library: Any) -> None:
    pixels = picture(300, 200)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    spec = PreprocessSpec(size=96, mean=mean, std=std)
    expected = normalize(to_pixels(Image.fromarray(pixels), spec), spec)
    np.testing.assert_array_equal(library.preprocess(spec, library.image([pixels], 300, 200)), expected)


def test_a_wider_stride_changes_nothing(library: Any) -> None:
    wide = picture(200, 90)
    view = wide[:, 20:150]
    spec = PreprocessSpec(size=40)
    expected = to_pixels(Image.fromarray(np.ascontiguousarray(view)), spec)
    np.testing.assert_array_equal(library.resize(spec, library.image([view], 130, 90)), expected)
