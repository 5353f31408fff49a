"""The clip recipe on real scenes: recorded losses, frozen trunks, killed and resumed runs, many processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clip_edge.config import load_config
from clip_edge.console import Console
from clip_edge.distill.data.augment import AugmentSpec
from clip_edge.distill.metrics import read_metrics
from clip_edge.distill.models.checkpoint import load_student
from clip_edge.distill.recipes import RECIPES, clip
from clip_edge.distill.settings import (
    EvaluationSettings,
    KeepSettings,
    LogSettings,
    OptimizerSettings,
    ScheduleSettings,
)
from clip_edge.errors import ConfigError, TrainingError, UsageError

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
CONVOLUTIONAL = TINY | {
    "name": "tiny-conv",
    "image": {"tower": "timm:resnet10t", "args": {"channels": [8, 16, 16, 32], "stem_width": 8}, "size": 32},
}
CONFIG = clip.Config(
    steps=6,
    batch_size=16,
    workers=0,
    langs=("en",),
    device="cpu",
    optimizer=OptimizerSettings(lr=2e-3),
    schedule=ScheduleSettings(warmup_steps=2),
    evaluation=EvaluationSettings(every_steps=3),
    log=LogSettings(every_steps=1, tensorboard=False, checkpoint_every_steps=2),
)
# Six steps amplify the last bits of fp32 (1e-7) by AdamW's division: another CPU may differ by 1e-3, no more.
RECORDED = [3.39075, 3.03202, 3.10550, 2.76164, 2.74961, 2.62850]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # sums in the same order whatever the machine


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("student"), TINY)


def write_student(folder: Path, spec: dict[str, object]) -> Path:
    path = folder / f"{spec['name']}.json"
    path.write_text(json.dumps(spec))
    return path


def losses(run: Path) -> list[float]:
    return [row["contrastive_loss"] for row in read_metrics(run / "metrics.jsonl")]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "model.safetensors")


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
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
    assert load_config(clip.Config, [RECIPES["clip"].defaults]) == clip.Config()


def test_the_first_losses_are_the_recorded_ones(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    clip.run(CONFIG, data=tiny_emoji, student=student, out=tmp_path / "run")
    assert losses(tmp_path / "run") == pytest.approx(RECORDED, abs=1e-3)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"lr", "logit_scale", "grad_norm", "images_per_s", "data_wait_share"} <= rows[0].keys()
    assert ["val/text_to_image/recall_at_1" in row for row in rows] == [False, False, True] * 2


def test_the_student_folder_is_whole(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    folder = clip.run(CONFIG, data=tiny_emoji, student=student, out=tmp_path / "run")
    assert folder == tmp_path / "run" / "student"
    loaded = load_student(folder)
    provenance = loaded.info["provenance"]
    assert (provenance["recipe"], provenance["seed"], provenance["steps"]) == ("clip", 0, 6)
    assert "CC BY-SA" in provenance["data"]["licence"]["name"]
    assert set(provenance["versions"]) >= {"clip-edge", "torch", "timm"}
    assert load_config(clip.Config, [folder / "recipe.toml"]) == CONFIG
    examples = load_file(folder / "examples.safetensors")
    assert len(json.loads(bytes(examples["texts"].tolist()))) == 16
    assert examples["image.015"].shape == (48, 48, 3)


def test_a_frozen_trunk_does_not_move_and_its_features_are_computed_once(tiny_emoji: Path, tmp_path: Path) -> None:
    conv = write_student(tmp_path, CONVOLUTIONAL)
    config = replace(CONFIG, freeze_image=True)
    run = tmp_path / "run"
    with pytest.raises(KilledError):
        clip.run(config, data=tiny_emoji, student=conv, out=run, console=Dying(3))
    (features,) = (run / "cache").iterdir()
    written_ns = features.stat().st_mtime_ns
    first = load_file(run / "state" / "step-00000002" / "model.safetensors")
    clip.run(config, data=tiny_emoji, student=conv, out=run, resume=True)
    assert features.stat().st_mtime_ns == written_ns
    last = weights(run)
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert moved
    assert not any(name.startswith("image.trunk.") for name in moved)
    assert any(name.startswith("image.projection.") for name in moved)


def test_features_train_like_pictures(tiny_emoji: Path, tmp_path: Path) -> None:
    conv = write_student(tmp_path, CONVOLUTIONAL)
    frozen = replace(CONFIG, freeze_image=True)
    # An augmentation that never does anything: pictures go through the trunk at every step.
    looking = replace(frozen, augment=AugmentSpec(flip=1e-300))
    clip.run(frozen, data=tiny_emoji, student=conv, out=tmp_path / "features")
    clip.run(looking, data=tiny_emoji, student=conv, out=tmp_path / "pictures")
    # Features are kept in fp16: 5e-4 of each value.
    assert losses(tmp_path / "features") == pytest.approx(losses(tmp_path / "pictures"), abs=5e-3)


def test_chunks_train_like_the_whole_batch(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    clip.run(CONFIG, data=tiny_emoji, student=student, out=tmp_path / "whole")
    clip.run(replace(CONFIG, chunk_size=5), data=tiny_emoji, student=student, out=tmp_path / "chunks")
    assert losses(tmp_path / "chunks") == pytest.approx(losses(tmp_path / "whole"), abs=1e-3)


def test_bf16_on_a_cpu_trains_like_fp32(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    clip.run(replace(CONFIG, precision="bf16"), data=tiny_emoji, student=student, out=tmp_path / "bf16")
    clip.run(CONFIG, data=tiny_emoji, student=student, out=tmp_path / "fp32")
    # bf16 keeps 8 bits: 4e-3 of a cosine, times a logit scale of 14.
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), abs=6e-2)


@pytest.mark.parametrize("choose", ["last", "best"])
def test_a_resumed_run_is_the_undisturbed_one(tiny_emoji: Path, student: Path, tmp_path: Path, choose: str) -> None:
    config = replace(CONFIG, keep=KeepSettings(choose=choose))
    clip.run(config, data=tiny_emoji, student=student, out=tmp_path / "undisturbed")
    with pytest.raises(KilledError):
        clip.run(config, data=tiny_emoji, student=student, out=tmp_path / "killed", console=Dying(3))
    clip.run(config, data=tiny_emoji, student=student, out=tmp_path / "killed", resume=True)
    assert_same_weights(tmp_path / "killed", tmp_path / "undisturbed")
    assert losses(tmp_path / "killed") == losses(tmp_path / "undisturbed")


def test_the_raw_weights_can_be_kept(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    clip.run(replace(CONFIG, keep=KeepSettings(weights="raw")), data=tiny_emoji, student=student, out=run)
    state = run / "state" / "step-00000006"
    assert not (state / "ema.safetensors").exists()
    raw = load_file(state / "model.safetensors")
    assert all(torch.equal(raw[name], value) for name, value in weights(run).items())


def test_sigmoid_needs_a_student_with_a_bias(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, loss="sigmoid")
    with pytest.raises(ConfigError, match="`loss = sigmoid` needs a student with `logit_bias_init`; tiny has none"):
        clip.run(config, data=tiny_emoji, student=student, out=tmp_path / "run")
    biased = write_student(tmp_path, TINY | {"name": "biased", "logit_bias_init": -10.0})
    clip.run(config, data=tiny_emoji, student=biased, out=tmp_path / "run")
    found = losses(tmp_path / "run")
    assert found[-1] < found[0]


def test_a_loss_that_is_not_a_number_stops_the_run(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=50, optimizer=OptimizerSettings(lr=1e30, max_grad_norm=0.0))
    with pytest.raises(TrainingError) as caught:
        clip.run(config, data=tiny_emoji, student=student, out=tmp_path / "run")
    assert caught.value.what.startswith(("the loss is nan at step", "the gradient norm is"))
    assert "learning rate" in caught.value.what
    assert "--set optimizer.lr=" in str(caught.value.hint)
    assert not (tmp_path / "run" / "student").exists()


def test_a_run_that_does_not_learn_is_stopped(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    config = replace(
        CONFIG,
        optimizer=OptimizerSettings(lr=1e-12),
        evaluation=EvaluationSettings(every_steps=1, stop_at_chance_after=3),
    )
    with pytest.raises(TrainingError) as caught:
        clip.run(config, data=tiny_emoji, student=student, out=tmp_path / "run")
    assert caught.value.what == "after 3 steps and 3 evaluations retrieval is still at chance"
    assert "do captions and pictures belong together" in str(caught.value.hint)


def test_resuming_with_other_settings_names_them(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(KilledError):
        clip.run(CONFIG, data=tiny_emoji, student=student, out=run, console=Dying(3))
    changed = replace(CONFIG, steps=7, optimizer=OptimizerSettings(lr=0.5), log=LogSettings(every_steps=3))
    with pytest.raises(ConfigError) as caught:
        clip.run(changed, data=tiny_emoji, student=student, out=run, resume=True)
    assert caught.value.what == (
        "cannot resume, the run was started otherwise:\n"
        "  `optimizer.lr`: the run has 0.002, now 0.5\n"
        "  `steps`: the run has 6, now 7"
    )
    other = write_student(tmp_path, TINY | {"name": "tiny", "embed_dim": 16})
    with pytest.raises(ConfigError, match="`student`: the run was started with another one"):
        clip.run(CONFIG, data=tiny_emoji, student=other, out=run, resume=True)


def test_an_existing_run_is_not_overwritten(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = clip.run(CONFIG, data=tiny_emoji, student=student, out=run)
    with pytest.raises(UsageError) as caught:
        clip.run(CONFIG, data=tiny_emoji, student=student, out=run)
    assert str(caught.value) == (
        f"the output folder exists: {run}\n\nhint: continue it with --resume, or name another folder with --out"
    )
    assert clip.run(CONFIG, data=tiny_emoji, student=student, out=run, resume=True) == folder


def command(data: Path, student: Path, out: Path, *more: str) -> list[str]:
    settings = {
        "steps": 30,
        "batch_size": 16,
        "workers": 1,
        "device": "cpu",
        "log.every_steps": 1,
        "log.tensorboard": "false",
        "log.checkpoint_every_steps": 4,
        "evaluation.every_steps": 10,
        "keep.choose": "best",
        "chunk_size": 8,
    }
    words = ["distill", "clip", "--data", str(data), "--student", str(student), "--out", str(out)]
    return words + [word for key, value in settings.items() for word in ("--set", f"{key}={value}")] + list(more)


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(words: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "clip_edge.cli", *words], env=ENVIRONMENT, stderr=subprocess.PIPE)


def wait_for_step(process: subprocess.Popen[bytes], run: Path, step: int) -> None:
    deadline_s = time.monotonic() + 300
    path = run / "metrics.jsonl"
    while not (path.is_file() and f'"step": {step},' in path.read_text()):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


@pytest.mark.slow
def test_killed_at_a_random_step_and_resumed_ends_bit_for_bit_the_same(
    tiny_emoji: Path, student: Path, tmp_path: Path
) -> None:
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    step = 6 + int.from_bytes(os.urandom(2), "big") % 20
    process = start(command(tiny_emoji, student, killed))
    wait_for_step(process, killed, step)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    assert not (killed / "student").exists()
    for out, more in ((killed, ["--resume"]), (undisturbed, [])):
        subprocess.run(
            [sys.executable, "-m", "clip_edge.cli", *command(tiny_emoji, student, out, *more)],
            env=ENVIRONMENT,
            check=True,
            capture_output=True,
        )
    assert_same_weights(killed, undisturbed)
    assert losses(killed) == losses(undisturbed), f"killed at step {step}"
    assert [row["step"] for row in read_metrics(killed / "metrics.jsonl")] == list(range(1, 31))


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(
        command(tiny_emoji, student, run, "--set", "steps=5000", "--set", "log.checkpoint_every_steps=5000")
    )
    wait_for_step(process, run, 5)
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume continues from here" in talk.decode()
    assert "Traceback" not in talk.decode()
    (saved,) = (run / "state").iterdir()
    assert int(saved.name.removeprefix("step-")) == read_metrics(run / "metrics.jsonl")[-1]["step"]


@pytest.mark.slow
def test_two_processes_train_like_one(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    more = ["--set", "steps=4", "--set", "workers=0"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*torchrun, "-m", "clip_edge.cli", *command(tiny_emoji, student, tmp_path / "two", *more)],
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
    )
    subprocess.run(
        [sys.executable, "-m", "clip_edge.cli", *command(tiny_emoji, student, tmp_path / "one", *more)],
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
    )
    assert losses(tmp_path / "two")[0] == pytest.approx(losses(tmp_path / "one")[0], abs=1e-5)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-3)  # as in the recorded losses
