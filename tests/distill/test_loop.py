"""The loop by itself: what it looks at, when it saves, and how random numbers are drawn. Runs: test_clip.py."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from clip_edge.distill import loop
from clip_edge.errors import TrainingError

CPU = torch.device("cpu")


def test_random_numbers_are_a_function_of_seed_step_and_rank() -> None:
    def drawn(*place: int) -> float:
        loop.seed_step(*place, CPU)
        return float(torch.rand(()))

    places = [(0, 1, 0), (0, 2, 0), (1, 1, 0), (0, 1, 1)]
    assert len({drawn(*place) for place in places}) == 4
    assert drawn(0, 1, 0) == drawn(0, 1, 0)


@pytest.mark.parametrize(
    ("loss", "norm", "what"), [(math.nan, 1.0, "the loss is nan"), (1.0, math.inf, "the gradient norm is inf")]
)
def test_the_first_step_that_is_not_finite_is_named(tmp_path: Path, loss: float, norm: float, what: str) -> None:
    (tmp_path / "state" / "step-00000004").mkdir(parents=True)
    watch = loop._Watch(tmp_path, is_scaled=False)
    watch.add(6, 0.25, torch.tensor(1.0), torch.tensor(1.0))
    watch.add(7, 0.5, torch.tensor(loss), torch.tensor(norm))
    watch.add(8, 0.5, torch.tensor(math.nan), torch.tensor(math.nan))
    with pytest.raises(TrainingError) as caught:
        watch.check()
    assert caught.value.what == f"{what} at step 7 (learning rate 0.5); the last good checkpoint is state/step-00000004"
    assert caught.value.exit_code == 1


def test_fp16_may_overflow_now_and_then(tmp_path: Path) -> None:
    watch = loop._Watch(tmp_path, is_scaled=True)
    watch.add(1, 0.5, torch.tensor(2.0), torch.tensor(math.inf))
    watch.check()
    assert watch.last_loss == 2.0


def test_waiting_for_data_is_measured(tmp_path: Path) -> None:
    watch = loop._Watch(tmp_path, is_scaled=False)
    assert watch.timed(iter([5])) == 5
    watch.add(11, 0.5, torch.tensor(2.0), torch.tensor(1.0))
    figures = watch.speed(11, 64)
    assert figures["images_per_s"] > 0
    assert 0 <= figures["data_wait_share"] <= 1
    assert watch.waited_s == 0
