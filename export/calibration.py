"""The user's own pictures and sentences, as a tower sees them: what ranges are measured on and precisions judged by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_edge.bundle import Tower
from clip_edge.distill.data.readers import open_dataset
from clip_edge.errors import DataError
from clip_edge.export.sources import Exportable
from clip_edge.images import open_image
from clip_edge.numerics import Ints
from clip_edge.preprocess import Bytes, PreprocessSpec, normalize, to_pixels

SAMPLES = 256  # half to measure ranges on, half held out to judge by
LEAST = 32  # ranges of fewer rows change with the choice of rows


@dataclass(frozen=True)
class Calibration:
    """Rows through the same preprocessing and tokenizer that users will run."""

    where: str
    pixels: Bytes  # (N, S, S, 3)
    input_ids: Ints  # (M, L)
    preprocess: PreprocessSpec

    def rows(self, tower: Tower) -> tuple[np.ndarray, np.ndarray]:
        """Inputs of a tower: those to measure ranges on, and those held out to judge by."""
        inputs: np.ndarray = normalize(self.pixels, self.preprocess) if tower == "image" else self.input_ids
        return inputs[::2], inputs[1::2]


def load_calibration(path: Path, source: Exportable, *, samples: int = SAMPLES) -> Calibration:
    """Evenly spaced samples of the data set `path`, all its languages in turn.

    Raises:
        UsageError, DataError: the data set cannot be read, or is too small.
    """
    dataset = open_dataset(path)
    if len(dataset) < LEAST:
        raise DataError(
            f"calibration needs at least {LEAST} samples; found {len(dataset)}",
            where=path,
            hint="give more of the pictures and sentences that the model will see",
        )
    chosen = np.linspace(0, len(dataset) - 1, min(samples, len(dataset)), dtype=int)
    pixels, texts = [], []
    for turn, index in enumerate(chosen):
        sample = dataset.sample(int(index))
        pixels.append(to_pixels(open_image(sample.image), source.preprocess))
        captions = [caption for lang in sorted(sample.captions) for caption in sample.captions[lang]]
        texts += captions[turn % len(captions) :][:1] if captions else []
    return Calibration(str(path), np.stack(pixels), source.tokenizer(texts), source.preprocess)
