"""JPEG and PNG files of every kind, made from a seed: what the native decoders are compared on.

`python -m tests.runtime.native.pictures FOLDER [COUNT]` writes each with what Pillow makes of it (32 x 32 RGB bytes)
for machines without Python: runtime/tests/test_pictures.cpp reads the folder that CLIP_EDGE_TEST_PICTURES names.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from clip_edge.images import open_image
from clip_edge.preprocess import PreprocessSpec, to_pixels

PNG_KINDS = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
JPEG_KINDS = ("RGB", "L", "CMYK", "YCCK", "RGB-stored")


def scene(rng: np.random.Generator) -> Image.Image:
    """An RGB picture of random size with gradients, edges and noise."""
    height, width = (int(side) for side in rng.integers(1, 260, 2))
    y, x = np.mgrid[0:height, 0:width]
    slopes = rng.uniform(-2, 2, (3, 2))
    channels = [(slope[0] * x + slope[1] * y + 128 + 60 * ((x // 9 + y // 7) % 2)) for slope in slopes]
    noise = rng.normal(0, rng.uniform(0, 30), (height, width, 3))
    return Image.fromarray(np.clip(np.dstack(channels) + noise, 0, 255).astype(np.uint8))


def _saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def exif_of(orientation: int) -> dict[str, Image.Exif]:
    """Options of Pillow's `save`; 0 is no EXIF at all."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif} if orientation else {}


def jpeg(rng: np.random.Generator, kind: str, orientation: int) -> bytes:
    options: dict[str, object] = {**exif_of(orientation), "quality": int(rng.integers(30, 98))}
    options |= {"subsampling": int(rng.integers(0, 3)), "progressive": bool(rng.integers(2))}
    if rng.integers(4) == 0:
        options["restart_marker_blocks"] = int(rng.integers(1, 9))
    image = scene(rng)
    if kind == "RGB-stored":
        return _saved(image, "JPEG", keep_rgb=True, **{**options, "subsampling": 0})
    file = _saved(image.convert("CMYK" if kind == "YCCK" else kind), "JPEG", **options)
    if kind == "YCCK":  # the same numbers, which the Adobe marker now calls YCCK
        at = file.index(b"\xff\xee\x00\x0eAdobe")
        file = file[: at + 15] + b"\x02" + file[at + 16 :]
    return file


def png(rng: np.random.Generator, kind: str, orientation: int) -> bytes:
    image = scene(rng)
    alpha = Image.fromarray(rng.integers(0, 256, image.size[::-1]).astype(np.uint8))
    options: dict[str, object] = dict(exif_of(orientation))
    if kind in ("LA", "RGBA"):
        image = image.convert(kind[:-1])
        image.putalpha(alpha)
    elif kind == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, image.size[::-1]).astype(np.uint16))
    elif kind == "P":
        colours = int(rng.choice([2, 4, 16, 200]))
        image = image.quantize(colours)
        options["bits"] = {2: 1, 4: 2, 16: 4, 200: 8}[colours]
    else:
        image = image.convert(kind)
    if rng.integers(2) and kind != "I;16" and kind not in ("LA", "RGBA"):
        options["transparency"] = {"RGB": (100, 120, 90), "P": bytes([0, 90, 255])}.get(kind, 0)
    return _saved(image, "PNG", **options)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def raw_png(rng: np.random.Generator, depth: int, colour: int, *, interlaced: bool = False) -> bytes:
    """What Pillow does not write: any legal depth, with a transparent colour, Adam7, or a short palette."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    width, height = int(rng.integers(1, 40)), int(rng.integers(1, 40))
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = []
    for left, top, across, down in passes if interlaced else [(0, 0, 1, 1)]:
        columns = len(range(left, width, across))
        size = (columns * channels * depth + 7) // 8
        rows += [bytes([int(rng.integers(5))]) + rng.bytes(size) for _ in range(top, height, down) if columns]
    extra = b""
    if colour == 3:
        entries = int(rng.integers(1, 2**depth + 1))
        extra = chunk(b"PLTE", rng.bytes(3 * entries))
    if colour in (0, 2, 3) and rng.integers(2):
        extra += chunk(b"tRNS", rng.bytes({0: 2, 2: 6, 3: 1}[colour]))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


RAW_KINDS = [(depth, colour) for colour in (0, 3) for depth in (1, 2, 4, 8)]
RAW_KINDS += [(16, 0), (8, 2), (16, 2), (8, 4), (16, 4), (8, 6), (16, 6)]


def every_kind(count: int, seed: int = 9) -> Iterator[tuple[str, bytes]]:
    """`count` files with a name each; all kinds come equally often."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        which, orientation = index // 3, int(rng.integers(0, 9))
        if index % 3 == 0:
            kind = JPEG_KINDS[which % len(JPEG_KINDS)]
            yield f"{index} JPEG {kind} turned {orientation}", jpeg(rng, kind, orientation)
        elif index % 3 == 1:
            kind = PNG_KINDS[which % len(PNG_KINDS)]
            yield f"{index} PNG {kind} turned {orientation}", png(rng, kind, orientation)
        else:
            depth, colour = RAW_KINDS[which % len(RAW_KINDS)]
            interlaced = bool(rng.integers(2))
            name = f"{index} PNG of {depth} bits, colour type {colour}, interlaced {interlaced}"
            yield name, raw_png(rng, depth, colour, interlaced=interlaced)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for index, (_, file) in enumerate(every_kind(int(sys.argv[2]) if len(sys.argv) > 2 else 100)):
        (folder / f"{index}.picture").write_bytes(file)
        (folder / f"{index}.rgb").write_bytes(to_pixels(open_image(file), PreprocessSpec(32)).tobytes())


if __name__ == "__main__":
    main()
