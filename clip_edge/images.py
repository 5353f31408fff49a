"""Any picture file a person has, as an upright 8-bit RGB picture; anything else, as an error that names the file."""

from __future__ import annotations

import importlib
import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from clip_edge.errors import DataError

MAX_PIXELS = 100_000_000  # three times a large phone camera; 300 MB once decoded

# What people have; fewer parsers, fewer holes. Pillow loads the first five itself, and the others take their time.
QUICK_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM")
SLOW_FORMATS = {"WEBP": "WebPImagePlugin", "TIFF": "TiffImagePlugin", "AVIF": "AvifImagePlugin"}
ORIENTATION_TAG = 0x0112

# EXIF orientation -> what makes the picture upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_DAMAGED = "the file is damaged or cut off: copy it again, or leave it out"
_warnings_lock = threading.Lock()


def open_image(source: Path | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in a file, or in its bytes, as an upright RGB picture.

    The EXIF orientation is applied, an animation gives its first frame, transparency lies over white,
    16 bits become 8 by keeping the high byte, palettes and CMYK become RGB.

    Raises:
        DataError: missing, empty, truncated, more than `max_pixels` (decided by the header, before decoding),
            or no picture that we read.
    """
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), len(source), "bytes in memory", max_pixels)
    if not source.is_file():  # a folder, a socket or a pipe that never ends is no picture either
        raise DataError("no such picture", where=source, hint="name an existing picture file")
    try:
        with source.open("rb") as file:
            return _decode(file, source.stat().st_size, str(source), max_pixels)
    except OSError as problem:
        raise DataError(f"cannot read the picture: {problem.strerror}", where=source) from problem


def as_rgb(image: Image.Image, where: str = "a picture in memory") -> Image.Image:
    """A Pillow picture of any mode as an upright RGB picture.

    Raises:
        DataError: it cannot be decoded, or its mode has no defined brightness range.
    """
    with _decoding(where, MAX_PIXELS):
        image.load()
        with _no_warnings():
            orientation = image.getexif().get(ORIENTATION_TAG)
        rgb = _to_rgb(image, where)
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return rgb if turn is None else rgb.transpose(turn)


def _decode(file: IO[bytes], size_bytes: int, where: str, max_pixels: int) -> Image.Image:
    if size_bytes == 0:
        raise DataError("the picture is empty (0 bytes)", where=where, hint=_DAMAGED)
    with _decoding(where, max_pixels), _no_warnings():
        image = _open(file)
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise _too_large(pixels, max_pixels, where)
    return as_rgb(image, where)


def _open(file: IO[bytes]) -> Image.Image:
    """The picture, its header read and nothing else."""
    try:
        return Image.open(file, formats=QUICK_FORMATS)
    except UnidentifiedImageError:
        for module in SLOW_FORMATS.values():
            importlib.import_module(f"PIL.{module}")
        file.seek(0)
        return Image.open(file, formats=[name for name in SLOW_FORMATS if name in Image.OPEN])


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would clip at 255; the high byte is also what it keeps of 16-bit colour
        image = _high_byte(image)
    if image.mode in ("I", "F"):
        raise DataError(
            f"pixels of mode `{image.mode}` (32 bits) have no defined brightness range",
            where=where,
            hint="save the picture with 8 or 16 bits a channel",
        )
    if image.mode in ("La", "RGBa"):  # premultiplied: the only way on is through the plain mode
        image = image.convert(image.mode.upper())
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """16-bit grey -> 8-bit grey, or grey with alpha when one grey value stands for transparent."""
    deep = np.asarray(image, dtype=np.uint16)
    grey = Image.fromarray((deep >> 8).astype(np.uint8))
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return grey
    alpha = Image.fromarray(np.where(deep == key, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha))


def _too_large(pixels: int, max_pixels: int, where: str) -> DataError:
    return DataError(
        f"the picture is too large: {pixels:,} pixels, at most {max_pixels:,} are read",
        where=where,
        hint="make it smaller first, or leave it out",
    )


@contextmanager
def _decoding(where: str, max_pixels: int) -> Iterator[None]:
    """Turn whatever a parser raises on a hostile file into one DataError."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as problem:
        known = ", ".join([*QUICK_FORMATS, *SLOW_FORMATS])
        raise DataError("not a picture that clip-edge reads", where=where, hint=f"known formats: {known}") from problem
    except Image.DecompressionBombError as problem:
        pixels = int(re.findall(r"\d+", str(problem))[0])  # Pillow refuses before it tells the size in any other way
        raise _too_large(pixels, max_pixels, where) from problem
    except Exception as problem:  # Pillow's parsers raise anything from struct.error to IndexError
        raise DataError(f"the picture cannot be decoded: {problem}", where=where, hint=_DAMAGED) from problem


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Pillow warns about large headers and odd EXIF; a reader can do nothing with that. One thread at a time,
    because the filters of `warnings` are global."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
