"""Augmentations as numbers: drawn, stored and replayed to the same pixels."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop, autoaugment
from torchvision.transforms import functional as F

from clip_edge.distill.reinforce import augment
from clip_edge.distill.reinforce.augment import OPS, SIGNED, Params, ReplaySpec, draw, magnitude_of, replay

GOLDEN = {
    "Identity": "227193ad85240600",
    "ShearX": "2e3fa85666231608",
    "ShearY": "c7cc0abdf9536515",
    "TranslateX": "a5ddc9ea76285081",
    "TranslateY": "bc932d97e8364aa9",
    "Rotate": "ea51e106399c298b",
    "Brightness": "addc624862b91e90",
    "Color": "4973acb676fb6fff",
    "Contrast": "7d8ad1bd17eb9ba3",
    "Sharpness": "921109b0e848a8e6",
    "Posterize": "4063e4dde8038fbf",
    "Solarize": "4b7cbc974e2b60cc",
    "AutoContrast": "310a06a776494a94",
    "Equalize": "e44d3bf832c404c1",
}


def photo(width: int, height: int, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def test_replays_1000_draws_to_the_pixels_of_torchvision() -> None:
    """Generation written with torchvision's own crop and RandAugment steps, against the replay of stored numbers."""
    for i in range(1000):
        rng = random.Random(f"draw {i}")
        picture = photo(rng.randint(20, 200), rng.randint(20, 200), i)
        params = draw(rng, *picture.size, ReplaySpec(flip=0.5))
        size = rng.choice((32, 64, 96))
        crop = F.resized_crop(picture, *params.box, [size, size], InterpolationMode.BICUBIC)
        made = F.hflip(crop) if params.flip else crop
        for op, magnitude in zip(params.ops, params.magnitudes, strict=True):
            pixels = magnitude * size if OPS[op].startswith("Translate") else magnitude
            made = autoaugment._apply_op(made, OPS[op], pixels, InterpolationMode.NEAREST, None)
        stored = Params(
            tuple(np.array(params.box, np.int32).tolist()),
            params.flip,
            tuple(np.array(params.ops, np.uint8).tolist()),
            tuple(np.array(params.magnitudes, np.float32).tolist()),
        )
        assert stored == params, "storage as fixed-width numbers loses nothing"
        assert replay(picture, stored, size).tobytes() == made.tobytes()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("bin_", [0, 9, 30])
def test_magnitudes_are_those_of_torchvision(op: str, bin_: int) -> None:
    magnitudes, signed = autoaugment.RandAugment()._augmentation_space(31, (224, 224))[op]
    expected = float(magnitudes[bin_]) if magnitudes.ndim else 0.0
    side = 224 if op.startswith("Translate") else 1
    assert magnitude_of(op, bin_) * side == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert signed == (op in SIGNED)


def test_draws_crops_like_torchvision() -> None:
    """Share of the area and aspect ratio of 2,000 crops follow the distribution of RandomResizedCrop."""
    rng = random.Random(0)
    torch.manual_seed(0)
    picture = Image.new("RGB", (300, 200))
    ours = np.array([draw(rng, 300, 200, ReplaySpec()).box for _ in range(2000)])
    theirs = np.array([RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)])
    for quantity in (
        lambda b: b[:, 2] * b[:, 3] / 60_000,
        lambda b: np.log(b[:, 3] / b[:, 2]),
        lambda b: b[:, 0] / 200,
    ):
        for quantile in (0.1, 0.5, 0.9):
            assert np.quantile(quantity(ours), quantile) == pytest.approx(
                np.quantile(quantity(theirs), quantile), abs=0.05
            )


@pytest.mark.parametrize("shape", [(1000, 10), (10, 1000), (1, 1), (1, 50)])
def test_extreme_pictures_get_the_centre_crop_of_torchvision(shape: tuple[int, int]) -> None:
    picture = Image.new("RGB", shape)
    spec = ReplaySpec(crop_scale=(0.9, 1.0))
    box = draw(random.Random(1), *shape, spec).box
    if shape in ((1000, 10), (10, 1000)):
        assert box == tuple(RandomResizedCrop.get_params(picture, [0.9, 1.0], [3 / 4, 4 / 3]))
    assert replay(picture, draw(random.Random(1), *shape, spec), 16).size == (16, 16)


@given(st.integers(0, 2**64), st.integers(1, 3000), st.integers(1, 3000))
def test_every_draw_can_be_replayed(seed: int, width: int, height: int) -> None:
    params = draw(random.Random(seed), width, height, ReplaySpec(flip=0.5))
    top, left, tall, wide = params.box
    assert top >= 0
    assert left >= 0
    assert 1 <= tall <= height - top
    assert 1 <= wide <= width - left
    assert all(0 <= op < len(OPS) for op in params.ops)


def test_a_translation_is_the_same_share_at_every_size() -> None:
    picture = Image.new("RGB", (100, 100), "white")
    params = Params((0, 0, 100, 100), False, (OPS.index("TranslateX"),), (0.25,))
    for size in (32, 64, 224):
        columns = np.asarray(replay(picture, params, size))[size // 2, :, 0]
        assert (columns == 0).sum() == size // 4


def test_a_box_of_another_picture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^the crop \(0, 0, 50, 50\) leaves the picture of 40 × 60 pixels$"):
        replay(Image.new("RGB", (40, 60)), Params((0, 0, 50, 50), False, (), ()), 32)


@pytest.mark.parametrize("op", OPS)
def test_golden_pixels(op: str) -> None:
    """If this fails after an update of Pillow or torchvision, stored embeddings no longer fit replayed pixels."""
    picture = augment.colour_chart()
    params = Params((3, 5, 37, 51), False, (OPS.index(op),), (magnitude_of(op, 9),))
    assert hashlib.sha256(replay(picture, params, 32).tobytes()).hexdigest()[:16] == GOLDEN[op]


def test_every_operation_but_identity_changes_the_picture() -> None:
    picture = augment.colour_chart().resize((32, 32))
    for op in OPS:
        changed = augment.apply_op(picture, op, magnitude_of(op, 9)).tobytes() != picture.tobytes()
        assert changed == (op != "Identity"), op


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_scale": (0.0, 1.0)}, "`crop_scale` must be a rising range above 0 and up to 1; found (0.0, 1.0)"),
        ({"magnitude": 31}, "`magnitude` must lie in 0..30; found 31"),
        ({"flip": 1.5}, "`flip` must lie in 0..1; found 1.5"),
    ],
)
def test_impossible_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError) as problem:  # noqa: PT011
        ReplaySpec(**changes)
    assert str(problem.value) == message
