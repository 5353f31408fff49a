"""What training writes down: metrics.jsonl, one line per logged step, and the same figures for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from clip_edge.errors import CheckpointError, UnavailableError
from clip_edge.files import write_file

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Figures = Mapping[str, float | None]  # None stands for a figure that is not finite: JSON has no NaN


class MetricsLog:
    """Appends rows; made by `open_log`."""

    def __init__(self, lines: IO[str], board: SummaryWriter | None) -> None:
        self._lines, self._board = lines, board

    def write(self, step: int, figures: Figures) -> None:
        """Append the row of `step`. The line is handed to the system at once, so that a killed run keeps it."""
        self._lines.write(json.dumps({"step": step, **figures}, allow_nan=False) + "\n")
        self._lines.flush()
        if self._board is not None:
            for name, value in figures.items():
                if value is not None:
                    self._board.add_scalar(name, value, step)


@contextmanager
def open_log(run: Path, *, after_step: int, tensorboard: bool) -> Iterator[MetricsLog]:
    """The log of the run folder, cut back so that it holds nothing of the steps after `after_step`."""
    path = run / "metrics.jsonl"
    cut_back(path, after_step)
    board = _board(run / "tensorboard", after_step) if tensorboard else None
    with path.open("a", encoding="utf-8") as lines:
        try:
            yield MetricsLog(lines, board)
        finally:
            if board is not None:
                board.close()


def cut_back(path: Path, last_step: int) -> None:
    """Remove the rows after `last_step`, and a last line that a killed process left unfinished."""
    if path.is_file():
        kept = [row for row in read_metrics(path) if row["step"] <= last_step]
        write_file(path, "".join(json.dumps(row) + "\n" for row in kept).encode())


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl, in order; an unfinished last line is left out.

    Raises:
        CheckpointError: a line that is no JSON object with a step.
    """
    rows: list[dict[str, float]] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n"):
                break
            try:
                row = json.loads(line)
                rows.append({"step": int(row["step"]), **row})
            except (ValueError, KeyError, TypeError) as problem:
                raise CheckpointError(
                    f"line {number} is no row of metrics", where=path, hint="remove that line"
                ) from problem
    return rows


def _board(folder: Path, after_step: int) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as problem:
        raise UnavailableError(
            "TensorBoard is not installed", hint="pip install tensorboard, or --set log.tensorboard=false"
        ) from problem
    return SummaryWriter(str(folder), purge_step=after_step + 1)
