"""How small may a JPEG be decoded before its embedding changes? The evidence for the margin in runtime/src/picture.cpp.

    python -m clip_edge.benchmarks.jpeg_margin BUNDLE PICTURE... --out jpeg_margin.json

Every picture is brought to the size at which a decoder that gives 1/8, 1/4 or 1/2 of the sides leaves `margin` times
what the model reads, stored as a JPEG, and embedded twice: decoded in full, and reduced. The cosine between the two
is kept for each picture. Pictures too small for a size are left out there; nothing is enlarged.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from clip_edge.benchmarks.environment import read_environment
from clip_edge.files import write_json
from clip_edge.images import open_image
from clip_edge.preprocess import RESAMPLING, Bytes, PreprocessSpec, normalize, to_pixels
from clip_edge.runtime import load
from clip_edge.schema import as_dict

MARGINS = (1.0, 1.5, 2.0, 2.5, 2.9, 3.5)
EIGHTHS = (1, 2, 4)
JPEG_QUALITY = 90
FAITHFUL = 0.999  # the least cosine to the full decoding that is called the same embedding


def reduced(jpeg: bytes, spec: PreprocessSpec, eighths: int) -> Bytes:
    """(S, S, 3): what libclip_edge makes of a JPEG decoded at `eighths`/8, by Pillow's `draft` and a resize box."""
    image = Image.open(io.BytesIO(jpeg))
    width, height = image.size
    image.draft("RGB", (width * eighths // 8, height * eighths // 8))
    assert image.size == (-(-width * eighths // 8), -(-height * eighths // 8)), image.size
    short = min(width, height)
    wide, high = (spec.size if side == short else int(spec.size * side / short) for side in (width, height))
    box = (0.0, 0.0, width * eighths / 8, height * eighths / 8)
    resized = image.convert("RGB").resize((wide, high), RESAMPLING[spec.interpolation], box=box)
    left, top = round((wide - spec.size) / 2), round((high - spec.size) / 2)
    return np.asarray(resized.crop((left, top, left + spec.size, top + spec.size)), np.uint8)


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
            image.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=JPEG_QUALITY)
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
