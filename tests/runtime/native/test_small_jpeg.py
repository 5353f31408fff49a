"""Large JPEGs decoded small: by their lowest frequencies where they are common, else as by Pillow's `draft`."""

from __future__ import annotations

import ctypes.util
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_edge.benchmarks.jpeg_margin import reduced
from clip_edge.images import TURNS
from clip_edge.preprocess import Bytes, PreprocessSpec

from . import pictures
from .conftest import Library

pytestmark = pytest.mark.skipif(
    not ctypes.util.find_library("turbojpeg"), reason="libturbojpeg decodes what is not common; it is not installed"
)

SIZES = [(96, 4), (66, 2), (27, 1), (20, 1)]  # of the model, and the eighths of 777 that are enough for it


def picture(kind: str) -> Image.Image:
    """1013 x 777 pixels (no multiple of 8): coarse, or with edges and noise in every block."""
    coarse = np.random.default_rng(1).integers(0, 256, (31, 41, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((1013, 777), Image.Resampling.BICUBIC)
    if kind == "smooth":
        return smooth
    noise = np.random.default_rng(2).normal(0, 25, (777, 1013, 3)) + np.asarray(smooth.quantize(9).convert("RGB"))
    return Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 92, **options})
    return file.getvalue()


def draft(file: bytes, spec: PreprocessSpec, eighths: int) -> Bytes:
    """What libjpeg-turbo makes of it at eighths/8, resized from where its pixels really lie; squashed."""
    image = Image.open(io.BytesIO(file))
    width, height = image.size
    image.draft("RGB", (width * eighths // 8, height * eighths // 8))
    assert image.size == (-(-width * eighths // 8), -(-height * eighths // 8))
    box = (0.0, 0.0, width * eighths / 8, height * eighths / 8)
    return np.asarray(image.convert("RGB").resize((spec.size,) * 2, Image.Resampling.BICUBIC, box=box), np.uint8)


@pytest.mark.parametrize("kind", ["smooth", "noisy"])
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 0, "quality": 40, "optimize": True},
        {"subsampling": 0, "restart_marker_blocks": 5},
        {"subsampling": 2},
        {"subsampling": 2, "restart_marker_rows": 1, "quality": 98},
    ],
)
@pytest.mark.parametrize(("size", "eighths"), SIZES[1:])
def test_the_lowest_frequencies(library: Library, kind: str, options: dict[str, Any], size: int, eighths: int) -> None:
    file, spec = jpeg(picture(kind), **options), PreprocessSpec(size)
    found = library.resize(spec, library.encoded(file, exact=False)).astype(int)
    apart = np.abs(found - reduced(file, spec, eighths))
    whole = options["subsampling"] == 0
    assert apart.max() <= (2 if whole else 6)  # halved colours are smoothed by Pillow, from whose pixels we calculate
    assert apart.mean() <= (0.4 if whole else 0.9)


@pytest.mark.parametrize(("size", "eighths"), SIZES[1:])
def test_grey(library: Library, size: int, eighths: int) -> None:
    file, spec = jpeg(picture("noisy").convert("L"), restart_marker_blocks=3), PreprocessSpec(size)
    found = library.resize(spec, library.encoded(file, exact=False)).astype(int)
    assert np.array_equal(found[..., 0], found[..., 2])
    colours = jpeg(
        Image.open(io.BytesIO(file)).convert("RGB"), quality=100, subsampling=0
    )  # the same, stored as colours
    assert np.abs(found - reduced(colours, spec, eighths)).max() <= 2


@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"subsampling": 1}, {"keep_rgb": True, "subsampling": 0}],
)
@pytest.mark.parametrize(("size", "eighths"), SIZES)
def test_what_is_not_common_is_libjpeg_turbos(
    library: Library, options: dict[str, Any], size: int, eighths: int
) -> None:
    file, spec = jpeg(picture("noisy"), **options), PreprocessSpec(size, resize="squash")
    found = library.resize(spec, library.encoded(file, exact=False))
    np.testing.assert_array_equal(found, draft(file, spec, eighths))


def test_a_flaw_is_left_to_libjpeg_turbo(library: Library) -> None:
    """Viewers show such files; the quick way gives up at the first thing that is wrong."""
    file, spec = jpeg(picture("noisy"), restart_marker_rows=1), PreprocessSpec(27, resize="squash")
    marker = file.index(b"\xff\xd2")
    flawed = {
        "more data than blocks": file[:-2] + b"\x12\x34\x56" + file[-2:],
        "another restart than the next": file[: marker + 1] + b"\xd5" + file[marker + 2 :],
        "a row that ends early": file[: marker - 900] + file[marker:],
    }
    for name, bytes_ in flawed.items():
        found = library.resize(spec, library.encoded(bytes_, exact=False))
        np.testing.assert_array_equal(found, draft(bytes_, spec, 1), name)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("size", [96, 66, 27])
def test_a_turned_picture_is_reduced_to_the_same_place(library: Library, orientation: int, size: int) -> None:
    spec, image = PreprocessSpec(size, resize="squash"), picture("smooth")
    upright = Image.fromarray(library.resize(spec, library.encoded(jpeg(image), exact=False)))
    turned = jpeg(image, **pictures.exif_of(orientation))
    found = library.resize(spec, library.encoded(turned, exact=False))
    expected = np.asarray(upright.transpose(TURNS[orientation])).astype(int)
    assert np.abs(found - expected).mean() < 0.25  # rows and columns are rounded in another order, as in full


def test_a_small_jpeg_is_decoded_in_full(library: Library) -> None:
    spec = PreprocessSpec(130)
    for name, file in list(pictures.every_kind(500))[::3]:
        fast = library.resize(spec, library.encoded(file, exact=False))
        np.testing.assert_array_equal(fast, library.resize(spec, library.encoded(file)), name)
