"""The lightclip recipe on real scenes: switched off it is CLIP, every term is there and learns, nothing is exported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clip_edge.cli import main
from clip_edge.config import load_config
from clip_edge.console import Console
from clip_edge.distill.data.augment import AugmentSpec
from clip_edge.distill.metrics import read_metrics
from clip_edge.distill.models.checkpoint import load_student
from clip_edge.distill.recipes import RECIPES, clip, lightclip
from clip_edge.distill.recipes.lightclip import Config, SoftenSettings, TokenSettings, WordSettings
from clip_edge.distill.reinforce.engine import Options, prepare, reinforce
from clip_edge.distill.settings import EvaluationSettings, LogSettings, OptimizerSettings, ScheduleSettings
from clip_edge.errors import ConfigError
from clip_edge.export.exporter import Request, export

TINY = {
    "name": "tiny",
    "embed_dim": 32,
    "image": {
        "tower": "timm:vit_tiny_patch16_224",
        "args": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
        "size": 32,
    },
    "text": {"depth": 2, "width": 32, "heads": 2, "context_length": 24, "causal": False, "pad_mask": True},
    "tokenizer": {"kind": "trained", "vocab_size": 400},
}
LOOP: dict[str, Any] = {
    "steps": 6,
    "batch_size": 16,
    "workers": 0,
    "langs": ("en",),
    "device": "cpu",
    "optimizer": OptimizerSettings(lr=2e-3),
    "schedule": ScheduleSettings(warmup_steps=2),
    "evaluation": EvaluationSettings(every_steps=3, stop_at_chance_after=0),
    "log": LogSettings(every_steps=1, tensorboard=False, checkpoint_every_steps=2),
}
CONFIG = Config(**LOOP)
OFF = replace(CONFIG, soften=SoftenSettings(alpha=0), tokens=TokenSettings(weight=0), words=WordSettings(weight=0))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # sums in the same order whatever the machine


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


def rows(run: Path) -> list[dict[str, Any]]:
    return read_metrics(run / "metrics.jsonl")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "model.safetensors")


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_the_commented_defaults_are_those_of_the_dataclass() -> None:
    assert load_config(Config, [RECIPES["lightclip"].defaults]) == Config()


def test_switched_off_it_is_plain_clip(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    lightclip.run(OFF, data=tiny_emoji, student=student, out=tmp_path / "off")
    clip.run(clip.Config(**LOOP), data=tiny_emoji, student=student, out=tmp_path / "clip")
    assert_same_weights(tmp_path / "off", tmp_path / "clip")
    assert not {"tokens", "words"} & rows(tmp_path / "off")[0].keys()


@pytest.fixture(scope="module")
def trained(tiny_emoji: Path, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("trained") / "run"
    lightclip.run(replace(CONFIG, steps=20), data=tiny_emoji, student=student, out=out)
    return out


def test_every_term_is_logged_by_itself_and_falls(trained: Path) -> None:
    found = rows(trained)
    assert found[0]["alpha"] == 0
    assert found[-1]["alpha"] == pytest.approx(0.2 * 19 / 20)
    for name in ("tokens", "words"):
        assert found[0][f"{name}_loss"] == pytest.approx(0.5 * found[0][name])
        assert found[-1][name] < found[0][name]
    assert found[0]["words"] == pytest.approx(torch.tensor(400.0).log().item(), rel=0.1)  # guessing among 400 ids


def test_the_student_holds_no_helper_and_exports_as_the_same_bytes_as_a_plain_one(
    trained: Path, tiny_emoji: Path, student: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    clip.run(clip.Config(**LOOP | {"steps": 1}), data=tiny_emoji, student=student, out=plain)
    assert weights(trained).keys() == weights(plain).keys()
    # The weights of one in the folder of the other: the towers are the same, and so are the graphs.
    (plain / "student" / "model.safetensors").write_bytes((trained / "student" / "model.safetensors").read_bytes())
    export(trained, [Request("onnx")], tmp_path / "a")
    export(plain, [Request("onnx")], tmp_path / "b")
    for name in ("vision_model", "text_model"):
        path = f"onnx/{name}.onnx"
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    names = b"".join((tmp_path / "a" / "onnx" / f"{name}.onnx").read_bytes() for name in ("vision_model", "text_model"))
    assert not any(word in names for word in (b"guess", b"align", b"fusion", b"gate", b"mask_embedding"))


class KilledError(Exception):
    """Stands for the end of the process."""


class Dying(Console):
    """A console whose evaluation report at a step is the last thing that happens."""

    def say(self, text: str) -> None:
        if text.startswith("step 3:"):
            raise KilledError


def test_killed_and_resumed_is_uninterrupted(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    lightclip.run(CONFIG, data=tiny_emoji, student=student, out=tmp_path / "whole")
    dying = Dying(quiet=True, progress_bars=False)
    with pytest.raises(KilledError):
        lightclip.run(CONFIG, data=tiny_emoji, student=student, out=tmp_path / "killed", console=dying)
    lightclip.run(CONFIG, data=tiny_emoji, student=student, out=tmp_path / "killed", resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")


def test_gradient_caching_changes_nothing(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=2, words=WordSettings(weight=0))  # which words are hidden depends on the chunks
    for chunk_size in (0, 5):
        chunked = replace(config, chunk_size=chunk_size)
        lightclip.run(chunked, data=tiny_emoji, student=student, out=tmp_path / str(chunk_size))
    whole, parts = rows(tmp_path / "0"), rows(tmp_path / "5")
    for name in ("instance_loss", "tokens"):
        assert [row[name] for row in parts] == pytest.approx([row[name] for row in whole], abs=1e-4)


def test_together_with_teachers(
    tiny_emoji: Path, student: Path, tiny_open_clip: Path, save_open_clip: Callable[..., Path], tmp_path: Path
) -> None:
    knowledge = tmp_path / "knowledge"
    options = Options(
        tiny_emoji, (f"open_clip:{tiny_open_clip}",), knowledge, augmentations=2, languages=("en",), device="cpu"
    )
    reinforce(prepare(options))
    config = replace(CONFIG, teacher="reinforced", knowledge=str(knowledge))
    folder = lightclip.run(config, data=tiny_emoji, student=student, out=tmp_path / "run")
    first, last = rows(tmp_path / "run")[0], rows(tmp_path / "run")[-1]
    assert {"instance_loss", "reinforced_loss", "tokens_loss", "words_loss", "true/kl", "synthetic/kl"} <= first.keys()
    assert last["reinforced_loss"] < first["reinforced_loss"]
    provenance = load_student(folder).info["provenance"]
    assert provenance["recipe"] == "lightclip"
    assert len(provenance["teachers"]) == 1
    with pytest.raises(ConfigError, match="stored knowledge brings its own augmentations"):
        lightclip.run(
            replace(config, augment=AugmentSpec(flip=0.5)), data=tiny_emoji, student=student, out=tmp_path / "other"
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "reinforced"}, "belong together; found teacher = reinforced, knowledge = nothing"),
        ({"knowledge": "K"}, "belong together; found teacher = none, knowledge = K"),
        ({"distill_weight": 1.5}, "`distill_weight` must lie in 0..1; found 1.5"),
        ({"captions": ()}, "`captions` must name true, synthetic or both"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def test_a_typo_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[tokens]\nmatching = "hungarain"\n')
    with pytest.raises(ConfigError, match="hungarain"):
        load_config(Config, [path])


@pytest.mark.slow
def test_two_processes_train_like_one(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    overrides = ("steps=3", "workers=0", "batch_size=16", "device=cpu", 'langs=["en"]', "words.weight=0")
    overrides += ("log.every_steps=1", "log.tensorboard=false", "evaluation.split=")
    words = ["distill", "lightclip", "--data", str(tiny_emoji), "--student", str(student), "-q"]
    words += [word for one in overrides for word in ("--set", one)]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "clip_edge.cli"]
    command = [sys.executable, "-m", *launcher, *words, "--out", str(tmp_path / "two")]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    for name in ("instance_loss", "tokens"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], abs=1e-3)
