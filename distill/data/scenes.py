"""One scene: emoji on a coloured background, with masks, boxes, relations and captions. A pure function of its seed."""

from __future__ import annotations

import colorsys
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from clip_edge.distill.data.captions import Relation, captions, languages
from clip_edge.preprocess import Bytes

Box = tuple[int, int, int, int]  # x, y, width, height

# colour word -> hue in degrees, saturation and value ranges that everybody would call by that word
COLOURS: dict[str, tuple[float, tuple[float, float], tuple[float, float]]] = {
    "red": (0, (0.75, 0.95), (0.75, 0.92)),
    "orange": (29, (0.8, 1.0), (0.92, 1.0)),
    "yellow": (53, (0.65, 0.95), (0.93, 1.0)),
    "green": (125, (0.45, 0.8), (0.5, 0.8)),
    "blue": (218, (0.6, 0.9), (0.65, 0.95)),
    "purple": (277, (0.45, 0.75), (0.5, 0.75)),
    "pink": (338, (0.28, 0.48), (0.95, 1.0)),
    "brown": (25, (0.55, 0.75), (0.38, 0.52)),
    "grey": (0, (0.0, 0.02), (0.5, 0.68)),
    "white": (0, (0.0, 0.02), (0.95, 1.0)),
}
PATTERNS = ("plain", "gradient", "stripes", "dots")
SIZES = ((0.5, 0.85), (0.36, 0.52), (0.3, 0.42), (0.26, 0.36))  # longer side of an object / scene, by their number
ROTATION_DEG = 20.0  # beyond it an arrow to the left reads as one to the upper left
MAX_OVERLAP = 0.08  # of the smaller of two boxes, so that every object stays recognisable
TRIES = 40  # places tried for an object before the scene starts again with smaller ones
SHRINK = 0.9


@dataclass(frozen=True)
class SceneSpec:
    """What all scenes of a data set share."""

    seed: int
    size: int
    langs: tuple[str, ...]
    objects: tuple[int, int]  # the fewest and the most emoji in a scene


@dataclass(frozen=True)
class Drawing:
    """An emoji as scenes use it: the cropped RGBA picture and the name in each language."""

    id: str
    image: Image.Image
    names: dict[str, str]


@dataclass(frozen=True)
class Scene:
    """A picture with everything that is known about it. Box and area count visible pixels only."""

    image: Bytes  # (S, S, 3)
    mask: Bytes  # (S, S), object index + 1, 0 where the background shows
    ids: tuple[str, ...]
    boxes: tuple[Box, ...]
    areas_px: tuple[int, ...]
    colour: str
    pattern: str
    relation: Relation | None
    captions: dict[str, tuple[str, ...]]


def compose(drawings: Sequence[Drawing], split: str, index: int, spec: SceneSpec) -> Scene:
    """Scene number `index` of a split, made of some of `drawings`."""
    name = f"{spec.seed}/{split}/{index}"
    rng = random.Random(name)
    low, high = spec.objects
    chosen = rng.sample(drawings, min(rng.randint(low, high), len(drawings)))
    colour, pattern = rng.choice(list(COLOURS)), rng.choice(PATTERNS)
    image = Image.fromarray(background(colour, pattern, spec.size, rng))
    mask = Image.new("L", image.size)
    for number, (placed, corner) in enumerate(_arrange([one.image for one in chosen], spec.size, rng), start=1):
        image.paste(placed, corner, placed)
        mask.paste(number, corner, _opaque(placed))
    pixels = np.asarray(mask)
    boxes, areas_px = zip(*(_visible(pixels, number) for number in range(1, len(chosen) + 1)), strict=True)
    relation = find_relation(boxes, rng)
    words = {
        lang: captions(
            languages()[lang], [one.names[lang] for one in chosen], colour, relation, random.Random(f"{name}/{lang}")
        )
        for lang in spec.langs
    }
    ids = tuple(one.id for one in chosen)
    return Scene(np.asarray(image), pixels, ids, boxes, areas_px, colour, pattern, relation, words)


def background(colour: str, pattern: str, size: int, rng: random.Random) -> Bytes:
    """(S, S, 3) picture in shades of one colour, so that its colour word stays true."""
    base, other = (_shade(colour, rng) for _ in range(2))
    if pattern == "plain":
        return np.full((size, size, 3), np.round(base), dtype=np.uint8)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    angle = rng.uniform(0, 2 * np.pi)
    across = x * np.cos(angle) + y * np.sin(angle)  # (S, S), distance along a random direction
    count = rng.uniform(3, 7)
    if pattern == "gradient":
        weight = (across - across.min()) / (across.max() - across.min())
    elif pattern == "stripes":
        weight = (np.sin(across * count * 2 * np.pi) > 0).astype(np.float32)
    else:
        along = x * np.sin(angle) - y * np.cos(angle)
        weight = (np.cos(across * count * 2 * np.pi) + np.cos(along * count * 2 * np.pi) > 1.2).astype(np.float32)
    pixels: Bytes = np.round(base + (other - base) * weight[..., None]).astype(np.uint8)
    return pixels


def _shade(colour: str, rng: random.Random) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    hue_deg, saturation, value = COLOURS[colour]
    hue = (hue_deg + rng.uniform(-4, 4)) % 360 / 360
    return np.array(colorsys.hsv_to_rgb(hue, rng.uniform(*saturation), rng.uniform(*value)), np.float32) * 255


def _arrange(images: Sequence[Image.Image], size: int, rng: random.Random) -> list[tuple[Image.Image, tuple[int, int]]]:
    """The pictures turned and scaled, each with a corner such that they hardly overlap."""
    low, high = SIZES[len(images) - 1]
    shapes = [(rng.uniform(low, high), rng.uniform(-ROTATION_DEG, ROTATION_DEG)) for _ in images]
    shrink = 1.0
    while True:
        placed: list[tuple[int, int, int, int]] = []
        turned = [
            _turn(image, side * shrink * size, angle) for image, (side, angle) in zip(images, shapes, strict=True)
        ]
        for picture in turned:
            free = (_random_box(picture.size, size, rng) for _ in range(TRIES))
            box = next((box for box in free if all(_overlap(box, other) <= MAX_OVERLAP for other in placed)), None)
            if box is None:
                break
            placed.append(box)
        if len(placed) == len(turned):
            return [(picture, box[:2]) for picture, box in zip(turned, placed, strict=True)]
        shrink *= SHRINK


def _turn(image: Image.Image, side_px: float, angle_deg: float) -> Image.Image:
    """The picture, its longer side `side_px` long, turned and cropped to what is visible."""
    scale = side_px / max(image.size)
    wide, high = (max(2, round(length * scale)) for length in image.size)
    small = image.resize((wide, high), Image.Resampling.BICUBIC, reducing_gap=2.0)
    turned = small.rotate(angle_deg, Image.Resampling.BICUBIC, expand=True)
    return turned.crop(_opaque(turned).getbbox() or (0, 0, *turned.size))


def _opaque(image: Image.Image) -> Image.Image:
    """The pixels that belong to an object, as a bilevel picture: those at least half opaque."""
    return image.getchannel("A").convert("1", dither=Image.Dither.NONE)


def _random_box(shape: tuple[int, int], size: int, rng: random.Random) -> Box:
    width, height = shape
    return rng.randint(0, max(0, size - width)), rng.randint(0, max(0, size - height)), width, height


def _overlap(one: Box, two: Box) -> float:
    """Shared area as a share of the smaller box."""
    wide = min(one[0] + one[2], two[0] + two[2]) - max(one[0], two[0])
    high = min(one[1] + one[3], two[1] + two[3]) - max(one[1], two[1])
    return max(0, wide) * max(0, high) / min(one[2] * one[3], two[2] * two[3])


def _visible(mask: Bytes, number: int) -> tuple[Box, int]:
    """Box and area of the pixels that show object `number`."""
    hit = mask == number
    columns, rows = np.flatnonzero(hit.any(axis=0)), np.flatnonzero(hit.any(axis=1))
    if not len(columns):
        return (0, 0, 0, 0), 0
    x, y = int(columns[0]), int(rows[0])
    return (x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y), int(hit.sum())


def find_relation(boxes: Sequence[Box], rng: random.Random) -> Relation | None:
    """One of the relations that hold beyond doubt: the boxes do not even overlap on that axis."""
    holding = [
        Relation(i, kind, j)
        for i, one in enumerate(boxes)
        for j, two in enumerate(boxes)
        for kind, holds in (
            ("left", one[0] + one[2] <= two[0]),
            ("right", two[0] + two[2] <= one[0]),
            ("above", one[1] + one[3] <= two[1]),
            ("below", two[1] + two[3] <= one[1]),
        )
        if i != j and holds
    ]
    return rng.choice(holding) if holding else None


def png_bytes(pixels: Bytes) -> bytes:
    """The picture as PNG."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=4)  # 6 costs twice the time for 3 % fewer bytes
    return out.getvalue()
