"""What goes into a golden set: the student's own pictures and sentences, and those on which ports go wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from clip_edge.preprocess import Bytes

MAX_OWN_IMAGES, MAX_OWN_TEXTS = 16, 64
MAX_SIDE = 512  # of a real picture in the set: it proves resizing as well as a larger one and keeps bundles small

TEXTS = (
    "",
    " ",
    "a",
    "a photo of a cat",
    "A PHOTO OF A CAT",
    "  two   dogs\tand\na cat  ",
    "a red apple, left of a blue car; above: nothing!",
    "it's the dog's bone — isn't it?",
    "3.14159 and 1,000,000 pixels in 2026",
    "naïve café, Straße, Ångström, ﬁne ligature",
    "cafe\u0301 with a combining accent",
    "🍎",
    "👩‍👩‍👧‍👦 and 👍🏽 beside 🇩🇪",
    "一只猫坐在红色的沙发上",
    "蘋果 🍎 和 banana",
    "赤いりんごと青い車",
    "빨간 사과",
    "красное яблоко на столе",
    "تفاحة حمراء",
    "सेब की तस्वीर",
    "&lt;b&gt;bold&lt;/b&gt; &amp;amp; &quot;quoted&quot;",
    "<p class='x'>a <em>cat</em></p>",
    "<|startoftext|>a cat<|endoftext|>",
    "https://example.org/a?b=c&d=%20e#f",
    "user@example.org #cat @dog",
    "zero\u200bwidth and non\u00a0breaking space",
    "schÃ¶n mojibake",
    "control\u0001characters\u007f",
    "supercalifragilisticexpialidocious" * 3,
    "word " * 500,
    "猫" * 300,
    "!?.,;:-_" * 20,
)


def procedural_images() -> list[Bytes]:
    """Pictures from formulas, of the sizes on which resizing and cropping go wrong; each (H, W, 3) uint8 RGB."""
    random = np.random.default_rng(0)

    def noise(height: int, width: int) -> Bytes:
        return random.integers(0, 256, (height, width, 3), dtype=np.uint8)

    def rings(height: int, width: int, rate: float) -> Bytes:
        y, x = np.mgrid[:height, :width].astype(np.float64)
        phase = rate * ((x - width / 2) ** 2 + (y - height / 2) ** 2)
        wave = np.stack([np.sin(phase), np.sin(phase + 2), np.sin(phase + 4)], -1)
        return (127.5 + 127.5 * wave).astype(np.uint8)

    def ramp(height: int, width: int) -> Bytes:
        y, x = np.mgrid[:height, :width]
        return np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x + y) % 256], -1).astype(
            np.uint8
        )

    def board(height: int, width: int, step: int) -> Bytes:
        y, x = np.mgrid[:height, :width]
        return np.repeat(((x // step + y // step) % 2 * 255)[..., None], 3, -1).astype(np.uint8)

    def flat(height: int, width: int, *colour: int) -> Bytes:
        return np.full((height, width, 3), colour, dtype=np.uint8)

    return [
        rings(240, 320, 0.002),
        rings(321, 199, 0.02),  # rings finer than the result: shows a filter without antialiasing
        ramp(97, 301),
        ramp(256, 17),  # tall
        ramp(13, 255),  # wide
        noise(64, 64),
        noise(31, 47),  # smaller than any input: shows the enlarging filter
        noise(3, 2),
        flat(1, 1, 200, 30, 90),  # tiny
        noise(1, 40),
        board(129, 131, 1),
        board(200, 150, 9),
        flat(50, 60, 0, 0, 0),
        flat(60, 50, 255, 255, 255),
        flat(33, 33, 128, 128, 128),
        np.repeat(noise(120, 90)[..., :1], 3, -1),  # grey
    ]


def all_images(own: Sequence[Bytes]) -> list[Bytes]:
    """The student's own pictures, made smaller when large, then those from formulas."""
    return [_bounded(image) for image in own[:MAX_OWN_IMAGES]] + procedural_images()


def all_texts(own: Sequence[str]) -> list[str]:
    """The student's own sentences, then the hard ones; each once."""
    return list(dict.fromkeys([*own[:MAX_OWN_TEXTS], *TEXTS]))


def _bounded(pixels: Bytes) -> Bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    return np.asarray(image)
