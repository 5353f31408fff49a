"""Augmentations as numbers: drawn once, stored exactly, replayed to the same pixels at any later time.

A random resized crop of the decoded picture, an optional flip, then RandAugment (Cubuk et al. 2020), as in
MobileCLIP's reinforced data (Vasu et al. 2024, section 3). Ranges, bins and operations are torchvision's.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torchvision.transforms import functional as F

from clip_edge.preprocess import RESAMPLING

# The place in this table is what sidecars and DataCompDR store: never reorder, only append.
OPS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
BINS = 31  # magnitudes lie in 0..30
SIGNED = frozenset(OPS[1:10])
FULL_MAGNITUDE = {  # at bin 30; a translation is a share of the picture's side, so that it means the same at any size
    **dict.fromkeys(("ShearX", "ShearY"), 0.3),
    **dict.fromkeys(("TranslateX", "TranslateY"), 150 / 331),
    "Rotate": 30.0,
    **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), 0.9),
}
CROP_TRIES = 10


@dataclass(frozen=True)
class ReplaySpec:
    """From what augmentations are drawn. `flip` is a probability; captions with "left" turn false in a flip."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    ops: int = 2
    magnitude: int = 9
    flip: float = 0.0

    def __post_init__(self) -> None:
        for name, pair, most in (("crop_scale", self.crop_scale, 1), ("crop_ratio", self.crop_ratio, 100)):
            if not 0 < pair[0] <= pair[1] <= most:
                raise ValueError(f"`{name}` must be a rising range above 0 and up to {most}; found {pair}")
        for name, value, most in (
            ("ops", self.ops, 8),
            ("magnitude", self.magnitude, BINS - 1),
            ("flip", self.flip, 1),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"`{name}` must lie in 0..{most}; found {value}")


@dataclass(frozen=True)
class Params:
    """One augmentation. `box` is (top, left, height, width) in pixels of the decoded picture; `magnitudes` are float32.

    A translation is a share of the output's side; all other magnitudes are what the operation takes.
    """

    box: tuple[int, int, int, int]
    flip: bool
    ops: tuple[int, ...]
    magnitudes: tuple[float, ...]


def draw(rng: random.Random, width: int, height: int, spec: ReplaySpec) -> Params:
    """Random parameters for a picture of that size. Only `rng.random()` is asked: its values never change in Python."""
    box = _draw_box(rng, width, height, spec)
    flip = rng.random() < spec.flip
    ops, magnitudes = [], []
    for _ in range(spec.ops):
        op = int(rng.random() * len(OPS))
        value = magnitude_of(OPS[op], spec.magnitude)
        if OPS[op] in SIGNED and rng.random() < 0.5:
            value = -value
        ops.append(op)
        magnitudes.append(float(np.float32(value)))
    return Params(box, flip, tuple(ops), tuple(magnitudes))


def magnitude_of(op: str, bin_: int) -> float:
    """The unsigned magnitude of an operation at a bin in 0..30."""
    share = bin_ / (BINS - 1)
    if op == "Posterize":
        return 8.0 - round(4 * share)
    if op == "Solarize":
        return 255.0 * (1 - share)
    return FULL_MAGNITUDE.get(op, 0.0) * share


def _draw_box(rng: random.Random, width: int, height: int, spec: ReplaySpec) -> tuple[int, int, int, int]:
    low, high = (math.log(value) for value in spec.crop_ratio)
    for _ in range(CROP_TRIES):
        area = width * height * (spec.crop_scale[0] + rng.random() * (spec.crop_scale[1] - spec.crop_scale[0]))
        ratio = math.exp(low + rng.random() * (high - low))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            top, left = int(rng.random() * (height - tall + 1)), int(rng.random() * (width - wide + 1))
            return top, left, tall, wide
    least, most = spec.crop_ratio  # nothing fits: the largest centred box of an allowed ratio
    wide = width if width / height <= most else max(1, round(height * most))
    tall = height if width / height >= least else max(1, round(width / least))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def replay(image: Image.Image, params: Params, size: int, interpolation: str = "bicubic") -> Image.Image:
    """The augmented picture, `size` pixels squared.

    Raises:
        ValueError: the box leaves the picture (it was drawn for another one).
    """
    top, left, tall, wide = params.box
    if top < 0 or left < 0 or tall < 1 or wide < 1 or top + tall > image.height or left + wide > image.width:
        raise ValueError(f"the crop {params.box} leaves the picture of {image.width} × {image.height} pixels")
    box = (left, top, left + wide, top + tall)
    # crop first: a resampling filter must not see pixels outside of the box, as in torchvision's resized_crop
    out = image.crop(box).resize((size, size), RESAMPLING[interpolation])
    if params.flip:
        out = out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for op, magnitude in zip(params.ops, params.magnitudes, strict=True):
        out = apply_op(out, OPS[op], magnitude)
    return out


def apply_op(image: Image.Image, op: str, magnitude: float) -> Image.Image:
    """One operation: nearest interpolation, black where the picture ends."""
    return _APPLY[op](image, magnitude)


def _shear(image: Image.Image, x: float, y: float) -> Image.Image:
    degrees = [math.degrees(math.atan(slope)) for slope in (x, y)]
    return _affine(image, shear=degrees, center=[0, 0])


def _translate(image: Image.Image, x: float, y: float) -> Image.Image:
    return _affine(image, translate=[int(share * image.width) for share in (x, y)])


def _affine(image: Image.Image, **changes: Any) -> Image.Image:
    nothing: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    changed: Image.Image = F.affine(image, **{**nothing, **changes})
    return changed


_APPLY: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, _: image,
    "ShearX": lambda image, slope: _shear(image, slope, 0.0),
    "ShearY": lambda image, slope: _shear(image, 0.0, slope),
    "TranslateX": lambda image, share: _translate(image, share, 0.0),
    "TranslateY": lambda image, share: _translate(image, 0.0, share),
    "Rotate": lambda image, degrees: F.rotate(image, degrees),
    "Brightness": lambda image, change: F.adjust_brightness(image, 1.0 + change),
    "Color": lambda image, change: F.adjust_saturation(image, 1.0 + change),
    "Contrast": lambda image, change: F.adjust_contrast(image, 1.0 + change),
    "Sharpness": lambda image, change: F.adjust_sharpness(image, 1.0 + change),
    "Posterize": lambda image, bits: F.posterize(image, int(bits)),
    "Solarize": lambda image, threshold: F.solarize(image, threshold),
    "AutoContrast": lambda image, _: F.autocontrast(image),
    "Equalize": lambda image, _: F.equalize(image),
}


def versions() -> dict[str, str]:
    """The packages whose code decides the pixels of a replay."""
    return {name: importlib.metadata.version(name) for name in ("pillow", "torchvision")}


def colour_chart() -> Image.Image:
    """A fixed colourful picture without a file: every operation changes it visibly."""
    width, height = 61, 43
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 255 // (width - 1), y * 255 // (height - 1), (x * 7 + y * 13) % 256)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@functools.cache
def pixels_sha256() -> str:
    """A hash of what every operation, at both signs, makes of the colour chart with the packages installed here."""
    digest = hashlib.sha256()
    picture = colour_chart()
    for interpolation in RESAMPLING:
        for op, name in enumerate(OPS):
            for sign in (1, -1) if name in SIGNED else (1,):
                params = Params((3, 5, 37, 51), sign < 0, (op,), (sign * magnitude_of(name, 9),))
                digest.update(replay(picture, params, 32, interpolation).tobytes())
    return digest.hexdigest()
