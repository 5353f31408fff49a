"""How near a package comes to PyTorch, found by running it: chooses precisions; `verify` has the last word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from clip_edge.export.calibration import golden_rows
from clip_edge.export.coreml.interface import Interface
from clip_edge.export.quantize.judge import flat_cosines, worth_of_masks
from clip_edge.graphs import MASK_LOGITS
from clip_edge.numerics import TOLERANCES
from clip_edge.preprocess import Floats
from clip_edge.runtime.backends.mil.evaluate import Observe, prepare, run
from clip_edge.runtime.backends.mil.program import Function, read_program

ROWS = 8  # of the held-out calibration data, beside the golden set's
MEASURED = 32  # to measure ranges on
SHARE = 0.9  # of the tolerance that may be used up here: a phone sums in another order


@dataclass(frozen=True)
class Judge:
    """Rows as the package takes them, and what PyTorch makes of them."""

    rows: list[Mapping[str, np.ndarray]]
    reference: dict[str, Floats]  # (N, ...) for each output
    precision: str

    @property
    def wanted(self) -> float:
        """The score that every row must reach."""
        return 1 - SHARE * (1 - TOLERANCES[self.precision].min_cosine)

    def score(self, files: Mapping[str, bytes]) -> float:
        """The smallest cosine of any row and output of a package to PyTorch, and no more than its masks are worth.

        -1 when a value is not finite.
        """
        found = [*observed(load(files), self.rows)]
        scores = []
        for name, expected in self.reference.items():
            made = np.concatenate([row[name] for row in found])
            scores.append(flat_cosines(made, expected))
            if name == MASK_LOGITS:
                scores.append(worth_of_masks(made, expected, TOLERANCES[self.precision].min_cosine))
        least = float(np.min(scores))
        return -1.0 if np.isnan(least) else least


def make_judge(face: Interface) -> Judge:
    """Judged by the rows of the golden set, on which `verify` insists, and some of the held-out calibration data."""
    job = face.job
    rows = golden_rows(job.source, job.tower)
    if job.calibration is not None:
        rows = np.concatenate([rows, _some(job.calibration.rows(job.tower)[1], ROWS)])
    return Judge(face.rows(rows), dict(zip(face.outputs, face.expected(rows), strict=True)), job.precision)


def measured_rows(face: Interface) -> list[Mapping[str, np.ndarray]]:
    """Rows to measure ranges on: some of the calibration data, and the golden ones, which hold the extremes."""
    job = face.job
    assert job.calibration is not None
    rows = _some(job.calibration.rows(job.tower)[0], MEASURED)
    return face.rows(np.concatenate([rows, golden_rows(job.source, job.tower)]))


def load(files: Mapping[str, bytes]) -> Function:
    """The one function of a package, ready to run."""
    return prepare(read_program(files).functions["main"])


def observed(
    function: Function, rows: Iterable[Mapping[str, np.ndarray]], observe: Observe | None = None
) -> Iterator[dict[str, Floats]]:
    """The outputs for each row in turn, a batch of one."""
    for row in rows:
        yield run(function, row, observe)


def _some(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=int)]
