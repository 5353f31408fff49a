"""The mobileclip recipe on real scenes: recorded losses, resumed runs, many processes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clip_edge.config import load_config
from clip_edge.console import Console
from clip_edge.distill.metrics import read_metrics
from clip_edge.distill.recipes import RECIPES, mobileclip
from clip_edge.distill.reinforce.engine import Options, prepare, reinforce
from clip_edge.distill.settings import (
    EvaluationSettings,
    LogSettings,
    OptimizerSettings,
    ScheduleSettings,
)

TINY = {
    "name": "tiny",
    "embed_dim": 32,
    "image": {
        "tower": "timm:vit_tiny_patch16_224",
        "args": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
        "size": 32,
    },
    "text": {"depth": 1, "width": 32, "heads": 2, "context_length": 24, "causal": False, "pad_mask": True},
    "tokenizer": {"kind": "trained", "vocab_size": 400},
}
CONFIG = mobileclip.Config(
    steps=6,
    batch_size=16,
    workers=0,
    langs=("en",),
    device="cpu",
    distill_weight=0.75,
    teacher_scales=(70.0, 60.0),
    optimizer=OptimizerSettings(lr=2e-3),
    schedule=ScheduleSettings(warmup_steps=2),
    evaluation=EvaluationSettings(every_steps=3),
    log=LogSettings(every_steps=1, tensorboard=False, checkpoint_every_steps=2),
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # sums in the same order whatever the machine


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


@pytest.fixture(scope="module")
def teachers(
    tiny_open_clip: Path, save_open_clip: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """Two open_clip models of other sizes, dimensions and means."""
    other = save_open_clip(tmp_path_factory.mktemp("teacher") / "other", size=48, embed_dim=40, seed=7, mean=0.3)
    return f"open_clip:{tiny_open_clip}", f"open_clip:{other}"


@pytest.fixture(scope="module")
def knowledge(tiny_emoji: Path, teachers: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("knowledge") / "out"
    reinforce(prepare(Options(tiny_emoji, teachers, out, augmentations=3, languages=("en",), device="cpu")))
    return out


def train(config: mobileclip.Config, knowledge: Path | str, data: Path, student: Path, out: Path, **more: Any) -> Path:
    config = replace(config, knowledge=str(knowledge))
    return mobileclip.run(config, data=data, student=student, out=out, **more)


def losses(run: Path) -> list[float]:
    return [row["reinforced_loss"] for row in read_metrics(run / "metrics.jsonl")]


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = (load_file(run / "student" / "model.safetensors") for run in (a, b))
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


class KilledError(Exception):
    """Stands for the end of the process in tests that need no real one."""


class Dying(Console):
    """A console whose evaluation report at a step is the last thing that happens."""

    def __init__(self, step: int) -> None:
        super().__init__(quiet=True, progress_bars=False)
        self.step = step

    def say(self, text: str) -> None:
        if text.startswith(f"step {self.step}:"):
            raise KilledError


def test_the_commented_defaults_are_those_of_the_dataclass() -> None:
    assert load_config(mobileclip.Config, [RECIPES["mobileclip"].defaults]) == mobileclip.Config()
