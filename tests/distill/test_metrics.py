"""metrics.jsonl and the TensorBoard files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_edge.distill import metrics
from clip_edge.errors import CheckpointError


def test_rows_are_read_back(tmp_path: Path) -> None:
    with metrics.open_log(tmp_path, after_step=0, tensorboard=False) as log:
        log.write(1, {"loss": 2.5, "grad_norm": None})
        log.write(2, {"loss": 2.0})
    assert metrics.read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 2.5, "grad_norm": None},
        {"step": 2, "loss": 2.0},
    ]


def test_the_same_figures_reach_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with metrics.open_log(tmp_path, after_step=0, tensorboard=True) as log:
        log.write(3, {"contrastive_loss": 2.5, "grad_norm": None})
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert board.Tags()["scalars"] == ["contrastive_loss"]
    assert [(event.step, event.value) for event in board.Scalars("contrastive_loss")] == [(3, 2.5)]


def test_a_resumed_log_holds_no_step_twice(tmp_path: Path) -> None:
    with metrics.open_log(tmp_path, after_step=0, tensorboard=False) as log:
        for step in range(1, 6):
            log.write(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed while it wrote
    with metrics.open_log(tmp_path, after_step=3, tensorboard=False) as log:
        log.write(4, {"loss": 40.0})
    rows = metrics.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] == 40.0


@given(st.lists(st.integers(1, 50), unique=True).map(sorted), st.integers(0, 50))
def test_cutting_back_keeps_exactly_the_earlier_rows(tmp_path_factory, steps: list[int], last: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in steps))
    metrics.cut_back(path, last)
    assert [row["step"] for row in metrics.read_metrics(path)] == [step for step in steps if step <= last]


@pytest.mark.parametrize("line", ["not json\n", "[1]\n", '{"loss": 1}\n', '{"step": null}\n'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line)
    with pytest.raises(CheckpointError, match="line 2 is no row of metrics"):
        metrics.read_metrics(path)
