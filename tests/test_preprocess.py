"""Preprocessing against torchvision and open_clip, bit for bit, and against hashes that no library can change."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from clip_edge.errors import ConfigError, DataError
from clip_edge.preprocess import PreprocessSpec, normalize, resize_and_crop, to_pixels
from clip_edge.schema import as_dict, build

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = [(1, 1), (1, 97), (97, 1), (2, 3), (7, 5), (31, 64), (64, 31)]
SIZES += [(63, 65), (64, 64), (65, 64), (100, 75), (333, 500)]


def noise(width: int, height: int) -> Image.Image:
    """A picture from a formula: no random generator, no file, the same for ever."""
    x, y, c = np.meshgrid(np.arange(width), np.arange(height), np.arange(3))
    return Image.fromarray(((x * x * 7 + y * 31 + x * y * 3 + c * 85) % 256).astype(np.uint8))


def reference(image: Image.Image, spec: PreprocessSpec) -> np.ndarray:
    filter_ = transforms.InterpolationMode(spec.interpolation)
    shape = (spec.size, spec.size) if spec.resize == "squash" else spec.size
    chain = transforms.Compose(
        [
            transforms.Resize(shape, interpolation=filter_, antialias=True),
            transforms.CenterCrop(spec.size),
            transforms.ToTensor(),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )
    return chain(image).numpy()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("target", [63, 64])
def test_equals_torchvision_bit_for_bit(size: tuple[int, int], interpolation: str, resize: str, target: int) -> None:
    spec = build(
        PreprocessSpec,
        {"size": target, "interpolation": interpolation, "resize": resize, "mean": CLIP_MEAN, "std": CLIP_STD},
        where="test",
    )
    image = noise(*size)
    assert np.array_equal(normalize(to_pixels(image, spec), spec), reference(image, spec))


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 100))
def test_equals_torchvision_on_any_size(width: int, height: int, target: int) -> None:
    spec = PreprocessSpec(size=target, mean=CLIP_MEAN, std=CLIP_STD)
    image = noise(width, height)
    assert np.array_equal(normalize(to_pixels(image, spec), spec), reference(image, spec))


@pytest.mark.parametrize(("resize_mode", "resize"), [("shortest", "shortest"), ("squash", "squash")])
def test_equals_open_clip(resize_mode: str, resize: str) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    cfg = PreprocessCfg(size=96, mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic", resize_mode=resize_mode)
    theirs = image_transform_v2(cfg, is_train=False)
    spec = build(PreprocessSpec, {"size": 96, "resize": resize, "mean": CLIP_MEAN, "std": CLIP_STD}, where="test")
    for size in SIZES:
        image = noise(*size)
        assert np.array_equal(normalize(to_pixels(image, spec), spec), theirs(image).numpy())


def test_every_grey_level_normalises_as_torch_does() -> None:
    spec = PreprocessSpec(size=16, mean=CLIP_MEAN, std=CLIP_STD)
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    ours = normalize(levels, spec)
    theirs = transforms.Normalize(CLIP_MEAN, CLIP_STD)(torch.from_numpy(levels).permute(2, 0, 1).float().div(255))
    assert np.array_equal(ours, theirs.numpy())


GOLDEN = {
    (333, 500, "shortest", "bicubic"): "62fe6193210dee13",
    (333, 500, "squash", "bicubic"): "29987953b8ce7c1d",
    (500, 333, "shortest", "bilinear"): "c9c48f966546d7f1",
    (17, 5, "shortest", "bicubic"): "208ac6a0654776a4",
    (1, 97, "shortest", "bicubic"): "e6fc37fa2d4a7c82",
    (96, 96, "shortest", "bicubic"): "306647963887ff60",
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_hashes(case: tuple[int, int, str, str]) -> None:
    width, height, resize, interpolation = case
    spec = build(PreprocessSpec, {"size": 96, "resize": resize, "interpolation": interpolation}, where="test")
    pixels = to_pixels(noise(width, height), spec)
    assert pixels.shape == (96, 96, 3)
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == GOLDEN[case]


def test_a_batch_normalises_like_its_rows() -> None:
    spec = PreprocessSpec(size=8, mean=CLIP_MEAN, std=CLIP_STD)
    batch = np.stack([to_pixels(noise(9, 20 + i), spec) for i in range(3)])
    together = normalize(batch, spec)
    assert together.shape == (3, 3, 8, 8)
    assert together.dtype == np.float32
    assert together.flags.c_contiguous
    assert all(np.array_equal(together[i], normalize(batch[i], spec)) for i in range(3))


def test_a_line_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(DataError) as caught:
        resize_and_crop(Image.new("RGB", (1, 100_000)), PreprocessSpec(size=224))
    assert str(caught.value) == (
        "the picture is too narrow: 1 × 100000 pixels would become 224 × 22,400,000\n"
        "\nhint: crop it first, or leave it out"
    )


def test_a_specification_survives_the_trip_through_a_file() -> None:
    spec = PreprocessSpec(size=224, mean=CLIP_MEAN, std=CLIP_STD)
    assert build(PreprocessSpec, as_dict(spec), where="test") == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "`size` must lie in 1..4096; found 0"),
        ({"std": [1.0, 0.0, 1.0]}, "`std` must be positive; found (1.0, 0.0, 1.0)"),
        ({"interpolation": "bicubik"}, "`interpolation` must be one of bilinear, bicubic; found `bicubik`"),
        ({"men": [0.0, 0.0, 0.0]}, "unknown key: `men` (did you mean `mean`?)"),
    ],
)
def test_a_wrong_specification_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(PreprocessSpec, {"size": 64, **change}, where="preprocess.json")
    assert caught.value.what.startswith(message)
