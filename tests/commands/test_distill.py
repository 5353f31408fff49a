"""`clip-edge distill`: exit codes, what is on stdout and what on stderr, and messages word by word."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from clip_edge.cli import main
from clip_edge.config import load_config
from clip_edge.distill.recipes import RECIPES, clip, load
from clip_edge.errors import ConfigError

SPEC = {
    "name": "tiny",
    "embed_dim": 16,
    "image": {
        "tower": "timm:vit_tiny_patch16_224",
        "args": {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2},
        "size": 32,
    },
    "text": {"depth": 1, "width": 32, "heads": 2, "context_length": 16, "causal": False, "pad_mask": True},
    "tokenizer": {"kind": "trained", "vocab_size": 300},
}
QUICK = ["steps=4", "batch_size=16", "workers=0", "device=cpu", "log.tensorboard=false", "evaluation.limit=8"]
QUICK_OPTIONS = [word for setting in QUICK for word in ("--set", setting)]


@pytest.fixture
def words(tiny_emoji: Path, tmp_path: Path) -> list[str]:
    student = tmp_path / "tiny.json"
    student.write_text(json.dumps(SPEC))
    return ["--data", str(tiny_emoji), "--student", str(student), "--out", str(tmp_path / "run")]


def changed(words: list[str], option: str, value: str) -> list[str]:
    at = words.index(option) + 1
    return [*words[:at], value, *words[at + 1 :]]


def test_training_ends_with_a_student_and_one_object(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", "clip", *words, *QUICK_OPTIONS, "--json", "-"]) == 0
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["recipe"] == "clip"
    assert data["steps"] == 4
    assert data["elapsed_s"] > 0
    assert data["student"] == str(tmp_path / "run" / "student")
    assert {"contrastive_loss", "val/text_to_image/recall_at_10"} <= data["metrics"].keys()
    assert "train: 4/4 steps" in captured.err
    assert not list(tmp_path.glob(".*partial*"))


def test_a_dry_run_prints_a_valid_configuration_and_writes_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", "clip", *words, "--set", "optimizer.lr=0.5", "--set", "batch_size=32", "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert tomllib.loads(captured.out)["optimizer"]["lr"] == 0.5
    again = tmp_path / "again.toml"
    again.write_text(captured.out)
    assert load_config(clip.Config, [again]).optimizer.lr == 0.5
    assert "2,000 steps of 32 are 1000.0 epochs" in captured.err
    assert "student/       the trained student; appears at the end" in captured.err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_refuses_what_the_run_would_refuse(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "clip", *words, "--set", "batch_size=5000", "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith("error: the batch of 5000 does not fit the data set of ")
    settings = ["--set", "batch_size=32", "--set", "knowledge=nowhere"]
    assert main(["distill", "mobileclip", *words, *settings, "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith("error: no reinforced data for the split `train` in nowhere")


def test_a_dry_run_loads_no_torch(words: list[str]) -> None:
    code = (
        "import sys; from clip_edge.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or 50 * ('torch' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "distill", "clip", *words, "--set", "batch_size=32", "--dry-run"],
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("recipe", "change", "more", "message"),
    [
        ("clap", None, [], "error: unknown recipe: `clap`\n\nhint: did you mean `clip`? known: "),
        (
            "clip",
            ("--student", "nano-lite"),
            [],
            "error: unknown student: `nano-lite`\n\nhint: did you mean `nano-lite0`?",
        ),
        (
            "clip",
            None,
            ["--set", "optimizer.learning_rat=1"],
            "error: unknown key: `optimizer.learning_rat`\n  in: ",
        ),
        (
            "clip",
            None,
            ["--set", "optimizer.weight_decy=1"],
            "error: unknown key: `optimizer.weight_decy` (did you mean `optimizer.weight_decay`?)\n  in: ",
        ),
        ("clip", None, ["--set", "precision=bf32"], "error: `precision` must be one of auto, fp32, bf16, fp16; found"),
        ("clip", None, ["--set", "batch_size=100"], "error: the batch of 100 does not fit the data set of 64 samples"),
        ("clip", ("--data", "nowhere"), [], "error: no such data set: nowhere"),
        (
            "clip",
            None,
            ["--set", "evaluation.split=vall", "--set", "batch_size=16"],
            "error: unknown split: `vall`",
        ),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recipe: str,
    change: tuple[str, str] | None,
    more: list[str],
    message: str,
) -> None:
    if change is not None:
        words = changed(words, *change)
    assert main(["distill", recipe, *words, *more]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert "Traceback" not in captured.err
    assert not (tmp_path / "run").exists()


def test_an_existing_folder_is_refused(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    assert main(["distill", "clip", *words, *QUICK_OPTIONS]) == 2
    assert capsys.readouterr().err == (
        f"error: the output folder exists: {tmp_path / 'run'}\n\n"
        "hint: name another folder with --out, or remove this one first\n"
    )
    assert (tmp_path / "run" / "mine.txt").read_text() == "precious"


def test_resume_takes_the_settings_of_the_run(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", "clip", *words, *QUICK_OPTIONS, "--resume"]) == 0
    assert f"nothing to resume in {tmp_path / 'run'}: starting from the beginning" in capsys.readouterr().err
    assert main(["distill", "clip", *words, "--resume"]) == 0
    assert "this run is complete" in capsys.readouterr().err
    assert main(["distill", "clip", *words, "--resume", "--set", "steps=9"]) == 2
    assert "`steps`: the run has 4, now 9" in capsys.readouterr().err


def test_the_commented_defaults_are_valid_and_complete(tmp_path: Path) -> None:
    for name, info in RECIPES.items():
        config = load(name).Config
        assert load_config(config, [info.defaults]) == config()
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[optimzer]\nlr = 1\n")
    with pytest.raises(ConfigError, match=r"unknown key: `optimzer` \(did you mean `optimizer`\?\)"):
        load_config(clip.Config, [wrong])


@pytest.mark.parametrize(
    ("preset", "weight"), [("mobileclip-s", 1.0), ("mobileclip-b", 0.75), ("mobileclip-v2-s0-s2", 1.0)]
)
def test_published_settings_are_chosen_by_name(
    words: list[str], capsys: pytest.CaptureFixture[str], preset: str, weight: float
) -> None:
    assert main(["distill", "mobileclip", *words, "--config", preset, "--set", "batch_size=32", "--dry-run"]) == 0
    settings = tomllib.loads(capsys.readouterr().out)
    assert (settings["distill_weight"], settings["steps"], settings["batch_size"]) == (weight, 200_000, 32)
    assert len(settings["teacher_scales"]) == 2


def test_a_file_wins_over_a_preset_of_the_same_name(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mobileclip-b").write_text("steps = 7\n")
    assert (
        main(["distill", "mobileclip", *words, "--config", "mobileclip-b", "--set", "batch_size=32", "--dry-run"]) == 0
    )
    assert tomllib.loads(capsys.readouterr().out)["steps"] == 7


def test_a_preset_of_another_recipe_is_unknown(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "clip", *words, "--config", "mobileclip-b", "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith("error: missing file: mobileclip-b")
