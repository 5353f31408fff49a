"""How near a package comes to PyTorch, found by running it: chooses precisions; `verify` has the last word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from clip_edge.export import cases
from clip_edge.export.job import Job
from clip_edge.numerics import TOLERANCES, cosine_rows
from clip_edge.preprocess import Bytes, Floats, normalize, to_pixels
from clip_edge.runtime.backends.mil.evaluate import Observe, prepare, run
from clip_edge.runtime.backends.mil.program import Function, read_program

ROWS = 8  # of the held-out calibration data, beside the golden set's
MEASURED = 32  # to measure ranges on
SHARE = 0.9  # of the tolerance that may be used up here: a phone sums in another order


@dataclass(frozen=True)
class Judge:
    """Rows as the graph takes them, and what PyTorch makes of them."""

    inputs: np.ndarray  # (N, 3, S, S) pixels 0..255, or (N, L) ids
    reference: Floats  # (N, D)
    precision: str
    input: str

    @property
    def wanted(self) -> float:
        """The cosine that every row must reach."""
        return 1 - SHARE * (1 - TOLERANCES[self.precision].min_cosine)

    def cosine(self, files: Mapping[str, bytes]) -> float:
        """The smallest cosine of a package's rows to the reference; -1 when a row is not finite."""
        function = load(files)
        rows = np.concatenate([*observed(function, self.input, self.inputs)])
        with np.errstate(invalid="ignore", over="ignore"):
            found = cosine_rows(rows, self.reference)
        return -1.0 if np.isnan(found).any() else float(found.min())


def make_judge(job: Job) -> Judge:
    """Judged by the rows of the golden set, on which `verify` insists, and some of the held-out calibration data."""
    rows: list[np.ndarray]
    if job.tower == "image":
        spec = job.source.preprocess
        pictures = cases.all_images(job.source.example_images)
        rows = [np.stack([to_pixels(Image.fromarray(each), spec) for each in pictures])]
        rows += [] if job.calibration is None else [_some(job.calibration.pixels[1::2], ROWS)]
        pixels = np.concatenate(rows)
        return Judge(
            _channels_first(pixels), _embed(job, normalize(pixels, spec)), job.precision, job.declaration.input
        )
    rows = [job.source.tokenizer(cases.all_texts(job.source.example_texts))]
    rows += [] if job.calibration is None else [_some(job.calibration.input_ids[1::2], ROWS)]
    ids = np.concatenate(rows)
    return Judge(ids, _embed(job, ids), job.precision, job.declaration.input)


def measured_rows(job: Job) -> np.ndarray:
    """The half of the calibration data that ranges are measured on, as the graph takes it."""
    assert job.calibration is not None
    if job.tower == "image":
        return _channels_first(_some(job.calibration.pixels[::2], MEASURED))
    return _some(job.calibration.input_ids[::2], MEASURED)


def load(files: Mapping[str, bytes]) -> Function:
    """The one function of a package, ready to run."""
    return prepare(read_program(files).functions["main"])


def observed(function: Function, name: str, rows: np.ndarray, observe: Observe | None = None) -> Iterator[Floats]:
    """The embedding of each row in turn, (1, D)."""
    for row in rows:
        (embeds,) = run(function, {name: row[None]}, observe).values()
        yield embeds


def _embed(job: Job, rows: np.ndarray) -> Floats:
    with torch.inference_mode():
        found: Floats = torch.cat([job.module(torch.from_numpy(row[None])) for row in rows]).numpy()
    return found


def _some(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=int)]


def _channels_first(pixels: Bytes) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(pixels, -1, -3))
