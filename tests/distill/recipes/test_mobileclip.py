"""The mobileclip recipe on real scenes: recorded losses, resumed runs, many processes, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
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
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.metrics import read_metrics
from clip_edge.distill.models.checkpoint import load_student
from clip_edge.distill.recipes import RECIPES, mobileclip
from clip_edge.distill.reinforce.engine import Options, prepare, reinforce
from clip_edge.distill.settings import EvaluationSettings, LogSettings, OptimizerSettings, ScheduleSettings
from clip_edge.errors import ArtifactError, ClipEdgeError, ConfigError
from clip_edge.files import sha256_file

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

# Stored embeddings are rounded to bf16, so another CPU may move a teacher's similarity by 70 times 4e-3 here and there.
RECORDED = [4.67884, 4.87725, 4.63296, 3.90134, 3.75647, 3.76937]


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


@pytest.mark.parametrize("name", RECIPES["mobileclip"].presets)
def test_presets_are_valid_and_differ_from_the_defaults_in_what_was_published(name: str) -> None:
    info = RECIPES["mobileclip"]
    config = load_config(mobileclip.Config, [info.defaults, info.presets[name]])
    assert (config.steps, config.precision) == (200_000, "bf16")
    assert (config.optimizer, config.keep) == (mobileclip.Config().optimizer, mobileclip.Config().keep)
    expected = {
        "mobileclip-s": (1.0, (100.0, 100.0), 65_536, 2_000, 1e-3),
        "mobileclip-b": (0.75, (100.0, 100.0), 65_536, 2_000, 1e-3),
        "mobileclip-v2": (1.0, (70.0, 60.0), 65_536, 2_000, 1e-3),
        "mobileclip-v2-s0-s2": (1.0, (70.0, 60.0), 65_536, 10_000, 1e-3),
        "mobileclip-v2-s3-s4": (1.0, (70.0, 60.0), 114_688, 2_000, 0.0),
    }
    schedule = (config.schedule.warmup_steps, config.schedule.final_lr_ratio)
    assert (config.distill_weight, config.teacher_scales, config.batch_size, *schedule) == expected[name]


def test_the_first_losses_are_the_recorded_ones(
    tiny_emoji: Path, knowledge: Path, student: Path, tmp_path: Path
) -> None:
    train(CONFIG, knowledge, tiny_emoji, student, tmp_path / "run")
    assert losses(tmp_path / "run") == pytest.approx(RECORDED, abs=2e-2)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    for row in rows:
        parts = [0.25 * row[f"{kind}/contrastive"] + 0.75 * row[f"{kind}/kl"] for kind in ("true", "synthetic")]
        assert sum(parts) == pytest.approx(row["reinforced_loss"], rel=1e-5)
    assert ["val/text_to_image/recall_at_1" in row for row in rows] == [False, False, True] * 2


def test_the_student_says_who_taught_it(tiny_emoji: Path, knowledge: Path, student: Path, tmp_path: Path) -> None:
    folder = train(CONFIG, knowledge, tiny_emoji, student, tmp_path / "run")
    loaded = load_student(folder)
    provenance = loaded.info["provenance"]
    assert (provenance["recipe"], provenance["steps"]) == ("mobileclip", 6)
    assert [(one["name"], one["scale"]) for one in provenance["teachers"]] == [("tiny-vit", 70.0), ("other", 60.0)]
    assert all(len(one["weights_sha256"]) == 64 for one in provenance["teachers"])
    assert loaded.info["research_only"] is False
    assert load_config(mobileclip.Config, [folder / "recipe.toml"]) == replace(CONFIG, knowledge=str(knowledge))


def test_what_research_only_teachers_taught_is_research_only(
    tiny_emoji: Path, knowledge: Path, student: Path, tmp_path: Path
) -> None:
    """Sidecars carry the hash of the job, so the knowledge is made to say so together with them."""
    from clip_edge.distill.reinforce import manifest, sidecar

    folder = Path(shutil.copytree(knowledge, tmp_path / "knowledge")) / "train"
    stored = manifest.read_manifest(folder)
    apple = replace(stored.job.teachers[1], licence="apple-amlr", research_only=True)
    job = replace(stored.job, teachers=(stored.job.teachers[0], apple))
    files = []
    for record in stored.files:
        tensors, header = sidecar.read_tensors(folder / record.path)
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        sidecar.write_sidecar(folder / record.path, copies, replace(header, job=job.id))
        path = folder / record.path
        files.append(replace(record, sha256=sha256_file(path), bytes=path.stat().st_size))
    manifest.write_manifest(folder, replace(stored, job=job, files=tuple(files)))
    loaded = load_student(train(replace(CONFIG, steps=1), folder.parent, tiny_emoji, student, tmp_path / "run"))
    assert loaded.info["research_only"] is True
    assert {"applies_to": "distilled from other", "name": "apple-amlr", "research_only": True} in loaded.info[
        "licences"
    ]


def test_chunks_train_like_the_whole_batch(tiny_emoji: Path, knowledge: Path, student: Path, tmp_path: Path) -> None:
    train(CONFIG, knowledge, tiny_emoji, student, tmp_path / "whole")
    train(replace(CONFIG, chunk_size=5), knowledge, tiny_emoji, student, tmp_path / "chunks")
    assert losses(tmp_path / "chunks") == pytest.approx(losses(tmp_path / "whole"), abs=2e-3)


def test_bf16_on_a_cpu_trains_like_fp32(tiny_emoji: Path, knowledge: Path, student: Path, tmp_path: Path) -> None:
    train(CONFIG, knowledge, tiny_emoji, student, tmp_path / "fp32")
    train(replace(CONFIG, precision="bf16"), knowledge, tiny_emoji, student, tmp_path / "bf16")
    # Two losses of 4e-3 of a cosine, times a logit scale of 14.
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), abs=0.12)


def test_a_resumed_run_is_the_undisturbed_one_wherever_the_knowledge_lies(
    tiny_emoji: Path, knowledge: Path, student: Path, tmp_path: Path
) -> None:
    train(CONFIG, knowledge, tiny_emoji, student, tmp_path / "undisturbed")
    with pytest.raises(KilledError):
        train(CONFIG, knowledge, tiny_emoji, student, tmp_path / "killed", console=Dying(3))
    moved = Path(shutil.copytree(knowledge, tmp_path / "moved"))
    train(CONFIG, moved, tiny_emoji, student, tmp_path / "killed", resume=True)
    assert_same_weights(tmp_path / "killed", tmp_path / "undisturbed")
    assert losses(tmp_path / "killed") == losses(tmp_path / "undisturbed")


def test_other_knowledge_cannot_resume_a_run(
    tiny_emoji: Path, knowledge: Path, teachers: tuple[str, str], student: Path, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        train(CONFIG, knowledge, tiny_emoji, student, tmp_path / "run", console=Dying(3))
    other = Options(tiny_emoji, teachers, tmp_path / "other", augmentations=1, languages=("en",), device="cpu")
    reinforce(prepare(other))
    with pytest.raises(ConfigError) as caught:
        train(CONFIG, tmp_path / "other", tiny_emoji, student, tmp_path / "run", resume=True)
    assert caught.value.what == (
        "cannot resume, the run was started otherwise:\n"
        "  `knowledge`: the run was started with that of other teachers, captions or augmentations"
    )


def test_online_teachers_teach_and_resume(
    tiny_emoji: Path, teachers: tuple[str, str], student: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, teachers=teachers, chunk_size=5)
    train(config, "", tiny_emoji, student, tmp_path / "undisturbed")
    with pytest.raises(KilledError):
        train(config, "", tiny_emoji, student, tmp_path / "killed", console=Dying(3))
    train(config, "", tiny_emoji, student, tmp_path / "killed", resume=True)
    assert_same_weights(tmp_path / "killed", tmp_path / "undisturbed")
    found = losses(tmp_path / "undisturbed")
    assert losses(tmp_path / "killed") == found
    assert found[-1] < found[0]


def test_a_student_comes_to_agree_with_its_teachers(
    tiny_emoji: Path, knowledge: Path, student: Path, tmp_path: Path
) -> None:
    config = replace(
        CONFIG,
        steps=60,
        batch_size=32,
        distill_weight=1.0,
        teacher_scales=(),
        evaluation=EvaluationSettings(split=""),
        optimizer=OptimizerSettings(lr=5e-3),
    )
    train(config, knowledge, tiny_emoji, student, tmp_path / "run")
    found = losses(tmp_path / "run")
    assert sum(found[-5:]) < 0.5 * sum(found[:5])


def refused(config: mobileclip.Config, knowledge: Path | str, data: Path, student: Path, out: Path) -> str:
    """The message, after making sure that nothing was written."""
    with pytest.raises(ClipEdgeError) as caught:
        train(config, knowledge, data, student, out)
    assert not out.exists()
    assert caught.value.exit_code == (1 if isinstance(caught.value, ArtifactError) else 2)
    return str(caught.value)


def test_knowledge_that_does_not_fit_is_refused(
    tiny_emoji: Path, knowledge: Path, teachers: tuple[str, str], student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    folder = knowledge / "train"
    assert refused(CONFIG, "", tiny_emoji, student, out) == (
        "nobody teaches: `knowledge` and `teachers` are both empty\n\nhint: make knowledge with "
        "`clip-edge reinforce DATA --teacher SPEC --out DIR` and give --set knowledge=DIR; or name teachers with "
        "--set 'teachers=[\"SPEC\"]'"
    )
    assert refused(replace(CONFIG, teachers=teachers), knowledge, tiny_emoji, student, out) == (
        "`knowledge` and `teachers` are both set: stored knowledge has its own teachers\n\n"
        "hint: leave one of them empty"
    )
    assert refused(replace(CONFIG, teacher_scales=(100.0,)), knowledge, tiny_emoji, student, out) == (
        "`teacher_scales` has 1 values for 2 teachers: tiny-vit, other\n\n"
        "hint: give one for each, in this order, or none to take the teachers' own"
    )
    assert refused(replace(CONFIG, langs=("en", "zh")), knowledge, tiny_emoji, student, out) == (
        f"`langs` asks for zh; the stored knowledge is about en\n  in: {folder}\n\n"
        "hint: choose among these, or make knowledge with --langs"
    )
    assert refused(replace(CONFIG, augment=AugmentSpec()), knowledge, tiny_emoji, student, out) == (
        "`augment` is set, but stored knowledge brings its own augmentations\n\n"
        "hint: leave the table [augment] away, or make knowledge with other augmentations"
    )
    assert refused(CONFIG, tmp_path / "nowhere", tiny_emoji, student, out) == (
        f"no reinforced data for the split `train` in {tmp_path / 'nowhere'}\n\n"
        "hint: make it with `clip-edge reinforce DATA`"
    )


def test_knowledge_about_other_data_is_refused(knowledge: Path, student: Path, tmp_path: Path) -> None:
    from clip_edge.distill.data.generate import EmojiOptions, write_emoji

    other = tmp_path / "other"
    write_emoji(other, EmojiOptions(images=64, eval_images=16, emojis=24, unseen=4, size=48, workers=1, seed=5))
    path = knowledge / "train" / "shard-000000.reinforce.safetensors"
    message = refused(CONFIG, knowledge, other, student, tmp_path / "run")
    assert message == (
        f"the picture `{open_dataset(other).keys[0]}` is not the one that was described: its bytes differ\n"
        f"  in: {path}\n\nhint: use the pictures that this was made from, or delete {path.name} and "
        "run `clip-edge reinforce` again"
    )


def test_true_captions_alone_need_no_synthetic_ones(
    tiny_emoji: Path, teachers: tuple[str, str], student: Path, tmp_path: Path
) -> None:
    options = Options(tiny_emoji, teachers[:1], tmp_path / "bare", augmentations=1, captions=0, device="cpu")
    reinforce(prepare(options))
    config = replace(CONFIG, teacher_scales=(), steps=2)
    assert refused(config, tmp_path / "bare", tiny_emoji, student, tmp_path / "run") == (
        f"`captions` asks for synthetic ones, and the stored knowledge has none\n"
        f"  in: {tmp_path / 'bare' / 'train'}\n\nhint: train on the true ones, "
        "--set 'captions=[\"true\"]', or make knowledge with --captions 2"
    )
    train(replace(config, captions=("true",)), tmp_path / "bare", tiny_emoji, student, tmp_path / "run")
    (first, _) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert {"true/kl", "true/contrastive"} <= first.keys()
    assert "synthetic/kl" not in first


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("distill_weight=1.5", "`distill_weight` must lie in 0..1; found 1.5"),
        ("captions=[]", "`captions` must name true, synthetic or both; found []"),
        ('captions=["true", "true"]', "`captions` must name true, synthetic or both; found ['true', 'true']"),
        ("teacher_scales=[70, 0]", "`teacher_scales` must be above 0; found [70.0, 0.0]"),
        ("batch_size=1", "`batch_size` must be at least 2; found 1"),
    ],
)
def test_settings_that_cannot_be(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(mobileclip.Config, [], [setting])
    assert caught.value.what == message


def command(knowledge: Path, data: Path, student: Path, out: Path) -> list[str]:
    settings = {
        "knowledge": knowledge,
        "steps": 5,
        "batch_size": 16,
        "chunk_size": 3,
        "workers": 1,
        "device": "cpu",
        "log.every_steps": 1,
        "log.tensorboard": "false",
        "evaluation.every_steps": 5,
        "distill_weight": 0.75,
    }
    words = ["distill", "mobileclip", "--data", str(data), "--student", str(student), "--out", str(out)]
    return words + [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


@pytest.mark.slow
def test_two_processes_train_like_one(tiny_emoji: Path, knowledge: Path, student: Path, tmp_path: Path) -> None:
    short = ("--set", "steps=3", "--set", "workers=0", "--set", "evaluation.split=", "-q")
    assert main([*command(knowledge, tiny_emoji, student, tmp_path / "one"), *short]) == 0
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "clip_edge.cli"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *command(knowledge, tiny_emoji, student, tmp_path / "two"), *short],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert one[0]["reinforced_loss"] == pytest.approx(two[0]["reinforced_loss"], abs=1e-5)
    # AdamW divides small differences by small numbers: what is equal at first drifts apart a little.
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=2e-3)
