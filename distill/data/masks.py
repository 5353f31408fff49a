"""The objects of a picture as masks of the square that a model sees, and prompts that ask for one of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from clip_edge.distill.data.samples import DataSet, Sample
from clip_edge.errors import DataError
from clip_edge.graphs import BOTTOM_RIGHT, INSIDE, PADDING, TOP_LEFT
from clip_edge.images import open_image
from clip_edge.preprocess import Bytes, Floats, PreprocessSpec, resize_and_crop, to_pixels

T = TypeVar("T")
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]

MODES = ("1", "L", "P")  # of Pillow: one number of at most 8 bits for each pixel
PROMPT_POINTS = 2  # a box takes two points; a prompt of one point is padded


@dataclass(frozen=True)
class Objects:
    """What the square picture shows: K objects, fewer than the sample has when cropping took one away."""

    masks: Mask  # (K, S, S)
    classes: tuple[str | None, ...]  # K ids; None where the data does not say


def read_objects(sample: Sample, size: tuple[int, int], spec: PreprocessSpec) -> Objects:
    """The objects of `sample`, resized and cropped as its picture of `size` (width, height) is, to (S, S).

    A mask without objects is a picture that shows none: K is 0.

    Raises:
        DataError: no mask; it is damaged, has another size than the picture, or is no picture of numbers.
    """
    if sample.mask is None:
        raise DataError("no mask beside the picture", hint="the built-in data set has masks: `clip-edge data emoji`")
    numbers = _numbers(sample.mask)
    found = (numbers.shape[1], numbers.shape[0])
    if found != size:
        raise DataError(f"the mask is {found[0]}x{found[1]}, its picture {size[0]}x{size[1]}")
    if (most := int(numbers.max())) > len(sample.objects) > 0:
        raise DataError(f"the mask has a number {most}, and the sample lists {len(sample.objects)} objects")
    square = resize_and_crop(Image.fromarray(numbers), spec, resampling=Image.Resampling.NEAREST)
    pixels = np.asarray(square)
    shown = [number for number in np.unique(pixels).tolist() if number > 0]
    masks = np.stack([pixels == number for number in shown]) if shown else np.zeros((0, *pixels.shape), bool)
    return Objects(masks, tuple(sample.objects[number - 1] if sample.objects else None for number in shown))


def scene_batches(
    dataset: DataSet,
    places: Sequence[int],
    spec: PreprocessSpec,
    batch_size: int,
    use: Callable[[Sample, Objects], T],
    skipped: list[dict[str, str]],
) -> Iterator[tuple[Bytes, list[T], list[int]]]:
    """Square pictures (B, S, S, 3), what `use` makes of their objects, and their numbers in the data set.

    What cannot be read, or is refused by `use` with a DataError, goes to `skipped` as {key, reason}.
    """
    pixels: list[Bytes] = []
    used: list[T] = []
    numbers: list[int] = []
    for i in places:
        try:
            sample = dataset.sample(i)
            image = open_image(sample.image)
            used.append(use(sample, read_objects(sample, image.size, spec)))
        except DataError as problem:
            skipped.append({"key": dataset.keys[i], "reason": problem.what})
            continue
        pixels.append(to_pixels(image, spec))
        numbers.append(i)
        if len(pixels) == batch_size:
            yield np.stack(pixels), used, numbers
            pixels, used, numbers = [], [], []
    if pixels:
        yield np.stack(pixels), used, numbers


def box_prompt(mask: Mask, rng: np.random.Generator | None = None, jitter: float = 0.0) -> tuple[Floats, Labels]:
    """(S, S) -> the corners of its box as points (2, 2), x and y in 0..1, and their labels (2,).

    With `rng` every side moves by a normal number of `jitter` of the box's length, at most twice that, as in SAM's
    training (Kirillov et al. 2023, appendix A).
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    corners = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]], np.float32) / np.float32(len(mask))
    if rng is not None and jitter > 0:
        drift = np.clip(rng.normal(0.0, jitter, (2, 2)), -2 * jitter, 2 * jitter)
        corners = np.clip(corners + drift * (corners[1] - corners[0]), 0, 1).astype(np.float32)
    return corners, np.array([TOP_LEFT, BOTTOM_RIGHT])


def point_prompt(mask: Mask, rng: np.random.Generator) -> tuple[Floats, Labels]:
    """(S, S) -> the centre of one of its pixels (2, 2), x and y in 0..1, the second row padding, and labels (2,)."""
    place = rng.choice(np.flatnonzero(mask))
    y, x = divmod(int(place), mask.shape[1])
    points = np.array([[x + 0.5, y + 0.5], [0, 0]], np.float32) / np.float32(len(mask))
    return points, np.array([INSIDE, PADDING])


def _numbers(data: bytes) -> npt.NDArray[np.uint8]:
    """(H, W): the number of the object at each pixel."""
    open_image(data)  # size and damage are judged here
    with Image.open(io.BytesIO(data)) as image:
        if image.mode not in MODES:
            raise DataError(f"a mask has one number of 8 bits for each pixel; found a picture of mode `{image.mode}`")
        return np.array(image, dtype=np.uint8)
