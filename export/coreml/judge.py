"""How near a package comes to PyTorch, found by running it: chooses precisions; `verify` has the last word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from clip_edge.export.calibration import golden_rows
from clip_edge.export.job import Job
from clip_edge.numerics import TOLERANCES, cosine_rows
from clip_edge.preprocess import Floats
from clip_edge.runtime.backends.mil.evaluate import Observe, prepare, run
from clip_edge.runtime.backends.mil.program import Function, read_program
from clip_edge.runtime.backends.pixels import denormalize

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
    rows = golden_rows(job.source, job.tower)
    if job.calibration is not None:
        rows = np.concatenate([rows, _some(job.calibration.rows(job.tower)[1], ROWS)])
    with torch.inference_mode():
        reference: Floats = torch.cat([job.module(torch.from_numpy(row[None])) for row in rows]).numpy()
    return Judge(_as_given(rows, job), reference, job.precision, job.declaration.input)


def measured_rows(job: Job) -> np.ndarray:
    """Rows to measure ranges on: some of the calibration data, and the golden ones, which hold the extremes."""
    assert job.calibration is not None
    rows = _some(job.calibration.rows(job.tower)[0], MEASURED)
    return _as_given(np.concatenate([rows, golden_rows(job.source, job.tower)]), job)


def load(files: Mapping[str, bytes]) -> Function:
    """The one function of a package, ready to run."""
    return prepare(read_program(files).functions["main"])


def observed(function: Function, name: str, rows: np.ndarray, observe: Observe | None = None) -> Iterator[Floats]:
    """The embedding of each row in turn, (1, D)."""
    for row in rows:
        (embeds,) = run(function, {name: row[None]}, observe).values()
        yield embeds


def _as_given(rows: np.ndarray, job: Job) -> np.ndarray:
    """Rows as the graph takes them: pictures before normalising."""
    return denormalize(rows, job.source.preprocess) if job.tower == "image" else rows


def _some(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=int)]
