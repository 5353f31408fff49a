"""The golden set of a bundle: pictures, sentences and what PyTorch made of them, so that any device can test itself."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from clip_edge.bundle import Manifest
from clip_edge.errors import ArtifactError, BundleError, CheckpointError, ClipEdgeError
from clip_edge.files import parse_json, read_bounded
from clip_edge.preprocess import Bytes, Floats
from clip_edge.tokenizer import Ids

MAX_GOLDEN_BYTES = 256 * 1024 * 1024
MAX_CASES = 4096

Fail = Callable[[str], ClipEdgeError]  # the error to raise, given what is wrong


@dataclass(frozen=True)
class Golden:
    """N pictures and M sentences with their fp32 reference embeddings."""

    images: tuple[Bytes, ...]  # N pictures (H, W, 3), RGB, as they were before preprocessing
    pixels: Bytes  # (N, S, S, 3) after resizing and cropping, before normalising
    texts: tuple[str, ...]  # M sentences
    input_ids: Ids  # (M, L)
    image_embeds: Floats  # (N, D)
    text_embeds: Floats  # (M, D)

    def to_bytes(self) -> bytes:
        """The set as a safetensors file: the same values give the same bytes."""
        tensors: dict[str, np.ndarray] = {
            f"image.{i:03d}": np.ascontiguousarray(image) for i, image in enumerate(self.images)
        }
        texts = json.dumps(self.texts, ensure_ascii=True).encode()
        tensors |= {
            "pixels": self.pixels,
            "texts": np.frombuffer(texts, dtype=np.uint8),
            "input_ids": self.input_ids,
            "image_embeds": self.image_embeds,
            "text_embeds": self.text_embeds,
        }
        return safetensors.numpy.save(tensors)


def read_golden(data: bytes, manifest: Manifest, where: Path) -> Golden:
    """The golden set in a safetensors file, which must fit the manifest.

    Raises:
        BundleError: no safetensors, or a tensor is missing, unknown, of another type or shape, or not finite.
    """
    fail = functools.partial(BundleError, where=where, hint="export the model again")
    tensors = _parse(data, fail)
    images, texts = _images(tensors, fail), _texts(tensors, fail)
    n, m = len(images), len(texts)
    size, dim = manifest.image.preprocess.size, manifest.embedding.dim
    golden = Golden(
        images=images,
        pixels=_take(tensors, "pixels", np.uint8, (n, size, size, 3), fail),
        texts=texts,
        input_ids=_take(tensors, "input_ids", np.int64, (m, manifest.text.tokenizer.context_length), fail),
        image_embeds=_take(tensors, "image_embeds", np.float32, (n, dim), fail),
        text_embeds=_take(tensors, "text_embeds", np.float32, (m, dim), fail),
    )
    if tensors:
        raise fail(f"unknown tensor: `{next(iter(tensors))}`")
    if not (np.isfinite(golden.image_embeds).all() and np.isfinite(golden.text_embeds).all()):
        raise fail("a reference embedding is not finite")
    return golden


def read_examples(path: Path) -> tuple[tuple[Bytes, ...], tuple[str, ...]]:
    """The pictures and sentences that a student folder carries in examples.safetensors; none when it has no such file.

    Raises:
        CheckpointError: no safetensors, or no pictures and sentences in it.
    """
    if not path.exists():
        return (), ()
    fail = functools.partial(CheckpointError, where=path, hint="train the student again, or remove this file")
    tensors = _parse(read_bounded(path, MAX_GOLDEN_BYTES, error=CheckpointError), fail)
    return _images(tensors, fail), _texts(tensors, fail)


def _parse(data: bytes, fail: Fail) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(data)
    except Exception as problem:  # the parser raises its own error, KeyError for unknown types and ValueError
        raise fail(f"not a safetensors file: {problem}") from problem


def _images(tensors: dict[str, np.ndarray], fail: Fail) -> tuple[Bytes, ...]:
    count = sum(name.startswith("image.") for name in tensors)
    if not 1 <= count <= MAX_CASES:
        raise fail(f"1 to {MAX_CASES} pictures expected; found {count}")
    return tuple(_take(tensors, f"image.{i:03d}", np.uint8, (None, None, 3), fail) for i in range(count))


def _texts(tensors: dict[str, np.ndarray], fail: Fail) -> tuple[str, ...]:
    encoded = _take(tensors, "texts", np.uint8, (None,), fail)
    try:
        texts = parse_json(encoded.tobytes(), where="texts", error=ArtifactError)
    except ArtifactError as problem:
        raise fail(f"`texts` is {problem.what}") from problem
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise fail("`texts` must be a list of strings")
    if not 1 <= len(texts) <= MAX_CASES:
        raise fail(f"1 to {MAX_CASES} sentences expected; found {len(texts)}")
    return tuple(texts)


def _take(
    tensors: dict[str, np.ndarray], name: str, dtype: type, shape: tuple[int | None, ...], fail: Fail
) -> np.ndarray:
    """The named tensor, removed from the table, when it has the type and shape; None stands for any size above 0."""
    found = tensors.pop(name, None)
    if found is None:
        raise fail(f"missing tensor: `{name}`")
    fits = len(found.shape) == len(shape) and all(
        have == want if want is not None else have > 0 for have, want in zip(found.shape, shape, strict=True)
    )
    if found.dtype != dtype or not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise fail(
            f"`{name}` must be {np.dtype(dtype).name} of shape ({wanted}); found {found.dtype.name} {found.shape}"
        )
    return found
