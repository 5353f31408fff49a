"""What is measured: encoded pictures and sentences, the same bytes for every row."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clip_edge.errors import DataError
from clip_edge.files import read_bounded
from clip_edge.images import open_image

JPEG_QUALITY = 90  # what phone cameras write
MAX_PICTURE_BYTES = 256 * 1024 * 1024

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


@dataclass(frozen=True)
class Workload:
    """Encoded pictures (JPEG, PNG, WebP bytes) and sentences; rows take them in turn, in this order."""

    images: tuple[bytes, ...]
    texts: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        if not self.images or not self.texts:
            raise DataError("a measurement needs at least one picture and one sentence", where=self.source)

    @property
    def sha256(self) -> str:
        """The identity of the work: two reports compare only when it is the same."""
        parts = [hashlib.sha256(image).hexdigest() for image in self.images]
        return hashlib.sha256(json.dumps([parts, list(self.texts)]).encode()).hexdigest()


def from_files(paths: Sequence[Path], texts: Sequence[str]) -> Workload:
    """The user's own pictures and sentences.

    Raises:
        DataError: a file is missing, no readable picture, or above 256 MiB.
    """
    images = tuple(read_bounded(path, MAX_PICTURE_BYTES, error=DataError) for path in paths)
    for path in paths:
        open_image(path)  # what cannot be decoded is named now, not in the middle of measuring
    return Workload(images, tuple(texts), "files")


def from_pixels(pictures: Sequence[Bytes], texts: Sequence[str]) -> Workload:
    """Pictures (H, W, 3) uint8, written as JPEG at quality 90, and sentences: what a bundle carries to test itself."""
    return Workload(tuple(jpeg(pixels) for pixels in pictures), tuple(texts), "golden set of the bundle")


def jpeg(pixels: Bytes) -> bytes:
    """(H, W, 3) uint8 -> JPEG bytes."""
    out = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()
