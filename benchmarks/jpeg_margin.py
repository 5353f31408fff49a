"""How small may a JPEG be decoded before its embedding changes? The evidence for the margin in runtime/src/picture.cpp.

    python -m clip_edge.benchmarks.jpeg_margin BUNDLE PICTURE... --out jpeg_margin.json

Every picture is brought to the size at which a decoder that gives 1/8, 1/4 or 1/2 of the sides leaves `margin` times
what the model reads, stored as a JPEG, and embedded twice: decoded in full, and reduced. The cosine between the two
is kept for each picture. Pictures too small for a size are left out there; nothing is enlarged. The files keep every
pixel's colour, so that the frequencies of colours can be taken from what Pillow decodes.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from clip_edge.benchmarks.environment import read_environment
from clip_edge.files import write_json
from clip_edge.images import open_image
from clip_edge.preprocess import RESAMPLING, Bytes, Floats, PreprocessSpec, normalize, to_pixels
from clip_edge.runtime import load
from clip_edge.schema import as_dict

MARGINS = (1.0, 1.5, 2.0, 2.5, 2.9, 3.5)
EIGHTHS = (1, 2, 4)
JPEG_QUALITY = 90
FAITHFUL = 0.999  # the least cosine to the full decoding that is called the same embedding


def reduced(jpeg: bytes, spec: PreprocessSpec, eighths: int) -> Bytes:
    """(S, S, 3): what libclip_edge makes of a JPEG decoded at `eighths`/8: at 1/2 by libjpeg-turbo, whose pixels are
    those of Pillow's `draft`; below, the lowest frequencies of each block alone. Then a resize box, as Pillow has it.
    """
    image = Image.open(io.BytesIO(jpeg))
    width, height = image.size
    if eighths > 2:
        image.draft("RGB", (width * eighths // 8, height * eighths // 8))
        small = image.convert("RGB")
    else:
        image.draft("YCbCr", image.size)
        small = Image.fromarray(to_rgb(lowest_frequencies(np.asarray(image, np.uint8), eighths)))
    assert small.size == (-(-width * eighths // 8), -(-height * eighths // 8)), small.size
    short = min(width, height)
    wide, high = (spec.size if side == short else int(spec.size * side / short) for side in (width, height))
    box = (0.0, 0.0, width * eighths / 8, height * eighths / 8)
    resized = small.resize((wide, high), RESAMPLING[spec.interpolation], box=box)
    left, top = round((wide - spec.size) / 2), round((high - spec.size) / 2)
    return np.asarray(resized.crop((left, top, left + spec.size, top + spec.size)), np.uint8)


def lowest_frequencies(pixels: Bytes, eighths: int) -> Bytes:
    """(H, W, C) -> (H n/8, W n/8, C), rounded up: each block of 8 x 8 by its n x n lowest cosines."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // 8, 8, padded.shape[1] // 8, 8, -1) - 128.0
    down = cosines(eighths).T @ cosines(8)[:eighths] * math.sqrt(eighths / 8)  # (n, 8): analysed, cut, made again
    small = np.einsum("iy,aybxc,jx->aibjc", down, blocks, down, optimize=True) + 128
    rows = np.clip(np.round(small), 0, 255).reshape(small.shape[0] * eighths, small.shape[2] * eighths, -1)
    return np.asarray(rows[: -(-height * eighths // 8), : -(-width * eighths // 8)], np.uint8)


def to_rgb(pixels: Bytes) -> Bytes:
    """YCbCr as JFIF has it, rounded; Pillow's own conversion cuts off, which makes pictures half a level darker."""
    matrix = np.array([[1, 1, 1], [0, -0.344136, 1.772], [1.402, -0.714136, 0]])
    return np.asarray(np.clip(np.round((pixels - np.array([0.0, 128.0, 128.0])) @ matrix), 0, 255), np.uint8)


def cosines(count: int) -> Floats:
    """(N, N): the orthonormal cosine transform, frequency by pixel (ITU-R T.81, annex A.3.3)."""
    at = np.arange(count)
    rows = np.cos(np.outer(at, 2 * at + 1) * math.pi / (2 * count)) * math.sqrt(2 / count)
    rows[0] /= math.sqrt(2)
    return np.asarray(rows, np.float32)


def jpegs(image: Image.Image, spec: PreprocessSpec) -> Iterator[tuple[float, int, bytes]]:
    """(margin, eighths, file) for every size that the picture is large enough for."""
    short = min(image.size)
    for margin in MARGINS:
        for eighths in EIGHTHS:
            target = round(margin * spec.size * 8 / eighths)
            if target > short:
                continue
            size = (round(image.width * target / short), round(image.height * target / short))
            file = io.BytesIO()
            image.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
            yield margin, eighths, file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    samples: list[dict[str, object]] = []
    with load(options.bundle, towers=["image"], threads=1) as model:
        spec = model.manifest.image.preprocess
        for path in options.pictures:
            for margin, eighths, jpeg in jpegs(open_image(path), spec):
                pair = [to_pixels(open_image(jpeg), spec), reduced(jpeg, spec, eighths)]
                full, small = model.encode_images(pair)  # pictures of the model's own size pass unchanged
                grey = float(np.abs(normalize(pair[0], spec) - normalize(pair[1], spec)).mean())
                sample = {"picture": path.name, "margin": margin, "eighths": eighths, "cosine": float(full @ small)}
                samples.append({**sample, "mean_abs_normalized": grey})
    for margin in MARGINS:
        for eighths in EIGHTHS:
            values = np.array([s["cosine"] for s in samples if (s["margin"], s["eighths"]) == (margin, eighths)], float)
            if len(values):
                share = f"{np.mean(values >= FAITHFUL):.0%} at least {FAITHFUL}"
                line = f"margin {margin} at {eighths}/8: {values.min():.5f} min, {values.mean():.5f} mean, {share}\n"
                sys.stdout.write(line)
    result = {"bundle": options.bundle.name, "size": spec.size, "environment": as_dict(read_environment())}
    write_json(options.out, {**result, "jpeg_quality": JPEG_QUALITY, "samples": samples})


if __name__ == "__main__":
    main()
