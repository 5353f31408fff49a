"""The user's own pictures and sentences, as a tower sees them: what ranges are measured on and precisions judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from clip_edge.bundle import Tower
from clip_edge.distill.data.readers import open_dataset
from clip_edge.errors import DataError
from clip_edge.export import cases
from clip_edge.export.rows import Rows
from clip_edge.export.sources import Exportable
from clip_edge.images import open_image
from clip_edge.numerics import Ints
from clip_edge.preprocess import Bytes, PreprocessSpec, normalize, to_pixels
from clip_edge.tokenizer import Tokenizer

if TYPE_CHECKING:
    from clip_edge.export.job import Job

SAMPLES = 256  # half to measure ranges on, half held out to judge by
LEAST = 32  # ranges of fewer rows change with the choice of rows
MEASURED = 64  # rows that an activation is looked at on, beside the golden ones: bounds the time of an export
HELD_OUT = 64  # rows that a precision is judged by, beside the golden ones
SPELT = 0.75  # tokens for each byte of text: above, the tokenizer spells a language that it has no words of


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
        UsageError, DataError: the data set cannot be read, is too small, has no sentences, or speaks a language that
            the tokenizer does not know.
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
        pixels.append(to_pixels(_picture(sample.image, dataset.where(int(index))), source.preprocess))
        captions = [caption for lang in sorted(sample.captions) for caption in sample.captions[lang]]
        texts += captions[turn % len(captions) :][:1] if captions else []
    if len(texts) < LEAST:
        raise DataError(
            f"calibration needs at least {LEAST} sentences; found {len(texts)}",
            where=path,
            hint="the text tower is measured on sentences: give data with captions",
        )
    if not source.random:  # what learned nothing has no language
        _check_language(texts, source.tokenizer, path)
    return Calibration(str(path), np.stack(pixels), source.tokenizer(texts), source.preprocess)


def _picture(data: bytes, where: str) -> Image.Image:
    try:
        return open_image(data)
    except DataError as problem:
        hint = "`clip-edge data check DATA` names every picture that cannot be read"
        raise DataError(f"a picture to calibrate with: {problem.what}", where=where, hint=hint) from problem


def _check_language(texts: Sequence[str], tokenizer: Tokenizer, path: Path) -> None:
    spelt = [text for text in texts if len(tokenizer.encode(text)) > SPELT * max(8, len(text.encode()))]
    if 2 * len(spelt) > len(texts):
        raise DataError(
            f"the tokenizer has no words of the language of {len(spelt)} of {len(texts)} sentences, such as "
            f"`{spelt[0][:60]}`: it spells them letter by letter",
            where=path,
            hint="calibrate with sentences in the languages that the model was trained on",
        )


def golden_rows(source: Exportable, tower: Tower) -> np.ndarray:
    """The rows of the golden set: the model's own examples, and those on which ports go wrong."""
    if tower == "text":
        ids: np.ndarray = source.tokenizer(cases.all_texts(source.example_texts))
        return ids
    pictures = [Image.fromarray(image) for image in cases.all_images(source.example_images)]
    return normalize(np.stack([to_pixels(picture, source.preprocess) for picture in pictures]), source.preprocess)


def measured_rows(job: Job, calibration: Calibration) -> Rows:
    """Rows to measure ranges on: half of the calibration data, and the golden rows, which hold the extremes."""
    measured = _spread(calibration.rows(job.tower)[0], MEASURED)
    return job.read(np.concatenate([measured, golden_rows(job.source, job.tower)]))


def judged_rows(job: Job) -> Rows:
    """Rows to judge a precision by: the golden ones, and the held-out half of the calibration data, if any."""
    golden = golden_rows(job.source, job.tower)
    if job.calibration is None:
        return job.read(golden)
    return job.read(np.concatenate([golden, _spread(job.calibration.rows(job.tower)[1], HELD_OUT)]))


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=int)]
