"""A bundle in the place of a model: `eval` measures what users will run, through the runtime that they will use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from clip_edge.bundle import TOKENIZER, Bundle, Tower
from clip_edge.files import MAX_JSON_BYTES
from clip_edge.preprocess import PreprocessSpec
from clip_edge.runtime.backends import DEFAULT, Options, find_backend, open_tower
from clip_edge.tokenizer import Tokenizer

Encode = Callable[[np.ndarray], np.ndarray]


class BundleTowers(nn.Module):
    """`encode_image` and `encode_text` as a student has them, computed by the engine of a bundle."""

    def __init__(self, image: Encode, text: Encode) -> None:
        super().__init__()
        self.here = nn.Parameter(torch.zeros(0), requires_grad=False)  # says on which device the rows are wanted
        self._image, self._text = image, text

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels -> (B, D)"""
        return torch.from_numpy(self._image(pixels.cpu().numpy()))

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """(B, L) int64 -> (B, D)"""
        return torch.from_numpy(self._text(input_ids.cpu().numpy()))


@dataclass(frozen=True)
class BundledModel:
    """What `distill.evaluate` asks of a model."""

    student: BundleTowers
    tokenizer: Tokenizer
    preprocess: PreprocessSpec


def is_bundle(model: str | Path) -> bool:
    """Whether a path is the folder of a bundle."""
    return (Path(model) / "manifest.json").is_file()


def load_bundled(path: Path, *, precision: str | None = None, backend: str = DEFAULT) -> BundledModel:
    """The bundle `path` in one precision; without a name, the first in the manifest.

    Raises:
        BundleError: it is damaged, or has nothing for that backend.
        ConfigError: it has no such precision (the nearest is named).
    """
    targets = find_backend(backend).targets
    bundle = Bundle.open(path)
    runs: dict[Tower, Encode] = {}
    for tower in ("image", "text"):
        artifact = bundle.manifest.artifact(tower, targets, precision)
        runs[tower] = _batched(open_tower(backend, bundle, artifact, Options()), artifact.input_dtype, artifact.batch)
    tokenizer = Tokenizer.load(bundle.read(TOKENIZER, MAX_JSON_BYTES), bundle.manifest.text.tokenizer)
    return BundledModel(BundleTowers(runs["image"], runs["text"]), tokenizer, bundle.manifest.image.preprocess)


def _batched(run: Encode, dtype: str, batch: int | None) -> Encode:
    """`run` with the input type and, where it is fixed, the batch of the artefact."""

    def encode(rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(dtype, copy=False)
        size = batch or len(rows)
        return np.concatenate([run(rows[start : start + size]) for start in range(0, len(rows), size)])

    return encode
