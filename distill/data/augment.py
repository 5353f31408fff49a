"""Training augmentation: what to do as data, and doing it as a pure function of (seed, epoch, index).

Loads no torch until a picture changes: configurations hold an `AugmentSpec`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from clip_edge.preprocess import Bytes, PreprocessSpec, resize_and_crop


@dataclass(frozen=True)
class AugmentSpec:
    """What happens to a training picture. The default changes nothing.

    `crop_scale` is the range of the share of the area that a random crop keeps; `jitter` the strength of brightness,
    contrast and saturation changes (0.4 is usual) and `hue` of hue changes; RandAugment applies `randaugment_ops`
    random operations of magnitude `randaugment_magnitude` (0..30). Flips swap left and right, so captions with
    these words turn false: leave `flip` at 0 for such data.
    """

    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    jitter: float = 0.0
    hue: float = 0.0
    randaugment_ops: int = 0
    randaugment_magnitude: int = 9

    def __post_init__(self) -> None:
        bounds: tuple[tuple[str, float, float], ...] = (
            ("flip", self.flip, 1),
            ("jitter", self.jitter, 1),
            ("hue", self.hue, 0.5),
            ("randaugment_ops", self.randaugment_ops, 16),
            ("randaugment_magnitude", self.randaugment_magnitude, 30),
        )
        for name, pair, most in (("crop_scale", self.crop_scale or (1, 1), 1), ("crop_ratio", self.crop_ratio, 100)):
            if not 0 < pair[0] <= pair[1] <= most:
                raise ValueError(f"`{name}` must be a rising range above 0 and up to {most}; found {pair}")
        for name, value, limit in bounds:
            if not 0 <= value <= limit:
                raise ValueError(f"`{name}` must lie in 0..{limit}; found {value}")


class Augment:
    """`spec` as a callable: RGB picture and seed words -> (S, S, 3) uint8. Leaves the global generators alone."""

    def __init__(self, spec: AugmentSpec, preprocess: PreprocessSpec) -> None:
        self.preprocess = preprocess
        self.steps = _steps(spec, preprocess)

    def __call__(self, image: Image.Image, seed: tuple[int, ...]) -> Bytes:
        if self.steps:
            with _seeded(seed):
                for step in self.steps:
                    image = step(image)
        return np.array(resize_and_crop(image, self.preprocess), dtype=np.uint8)


def _steps(spec: AugmentSpec, preprocess: PreprocessSpec) -> list[Any]:
    """torchvision's transforms in the order of application; none for the default spec."""
    if spec == AugmentSpec():
        return []
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    filter_ = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}[preprocess.interpolation]
    steps: list[Any] = []
    if spec.crop_scale is not None:
        steps.append(transforms.RandomResizedCrop(preprocess.size, spec.crop_scale, spec.crop_ratio, filter_))
    elif spec.randaugment_ops or spec.jitter or spec.hue:
        steps.append(lambda image: resize_and_crop(image, preprocess))  # cheaper than changing all pixels of a photo
    if spec.flip:
        steps.append(transforms.RandomHorizontalFlip(spec.flip))
    if spec.randaugment_ops:
        fill = [round(255 * mean) for mean in preprocess.mean]
        steps.append(transforms.RandAugment(spec.randaugment_ops, spec.randaugment_magnitude, fill=fill))
    if spec.jitter or spec.hue:
        steps.append(transforms.ColorJitter(spec.jitter, spec.jitter, spec.jitter, spec.hue))
    return steps


@contextmanager
def _seeded(seed: tuple[int, ...]) -> Iterator[None]:
    """torchvision draws from the CPU's global generator: seed it for the block, then put it back.

    (`torch.manual_seed` would also touch the generators of accelerators.)
    """
    import torch

    before = torch.get_rng_state()
    torch.default_generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))
    try:
        yield
    finally:
        torch.set_rng_state(before)
