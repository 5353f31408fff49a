"""`clip-edge demo`: the plan, the whole road on little data, going on after an interruption."""

import json
from pathlib import Path

import pytest

from clip_edge import demo
from clip_edge.cli import main, run_verb
from clip_edge.console import SILENT
from clip_edge.demo import FULL, Goals, Size
from clip_edge.distill.models.operations import count_operations
from clip_edge.distill.models.spec import load_spec
from clip_edge.distill.models.student import Student
from clip_edge.tokenizer import TextSpec


def tiny_model(folder: Path, name: str, *, depth: int, width: int, patch: int) -> str:
    """A student file whose towers are made in no time."""
    spec = {
        "name": name,
        "embed_dim": 32,
        "image": {
            "tower": "timm:vit_tiny_patch16_224",
            "args": {"img_size": 32, "patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": 2},
            "size": 32,
        },
        "text": {
            "depth": depth,
            "width": width,
            "heads": 2,
            "context_length": 16,
            "causal": False,
            "pad_mask": True,
        },
        "tokenizer": {"kind": "trained", "vocab_size": 400},
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(spec))
    return str(path)


def tiny(folder: Path) -> Size:
    """Everything that the demo does, as little of it as there can be."""
    return Size(
        images=64,
        eval_images=16,
        emojis=24,
        unseen=4,
        teacher=tiny_model(folder, "tiny-teacher", depth=2, width=64, patch=8),
        teacher_steps=3,
        teacher_batch=32,
        student=tiny_model(folder, "tiny-student", depth=1, width=32, patch=16),
        steps=4,
        batch=32,
        goals=None,
        bench_batches="1",
        bench_threads="1",
        bench_budget_s=0.1,
    )


def test_dry_run_prints_command_lines_that_the_verbs_accept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--dry-run", "--out", str(out), "--json", "-"]) == 0
    commands = json.loads(capsys.readouterr().out)["commands"]
    assert [command.split()[1] for command in commands] == [
        *("data", "distill", "reinforce", "distill"),
        *("eval",) * 6,
        *("export", "verify", "export", "bench"),
    ]
    assert not out.exists()


def test_the_goals_are_those_of_the_built_in_data() -> None:
    assert FULL.goals == Goals(teacher={"recall_at_1": 0.60, "recall_at_10": 0.95}, kept=0.80, fewer=5.0)
    assert (FULL.eval_images, FULL.emojis - FULL.unseen) == (500, 400)


def test_the_students_of_the_demo_differ_enough_in_operations() -> None:
    """The architectures decide it, not the training."""
    assert FULL.goals is not None
    tokens = TextSpec(context_length=32, vocab_size=4096, pad_id=0, bos_id=1, eos_id=2, clean="none")
    teacher, student = (count_operations(Student(load_spec(name), tokens)) for name in (FULL.teacher, FULL.student))
    assert (teacher.image + teacher.text) / (student.image + student.text) >= FULL.goals.fewer


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "exists and holds no demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_step_talks_to_the_console_of_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    """A verb run by another one must not write to a stdout that carries one JSON object."""
    run_verb(("list", "backends"), SILENT)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_whole_road_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "QUICK", tiny(tmp_path))
    out = tmp_path / "demo"
    words = ["demo", "--quick", "--out", str(out), "--json", "-", "--no-progress"]
    assert main(words) == 0
    first = capsys.readouterr()
    told = json.loads(first.out)  # all of stdout, so no step wrote to it
    assert told["passed"]
    assert [step["passed"] for step in told["steps"]] == [True] * 14
    assert set(told["teacher"]) == set(told["student"]) == {"val", "unseen"}
    assert told["comparison"]["operations_factor"] > 1
    assert first.err.count("$ clip-edge ") == 14
    page = (out / "report.html").read_text()
    for title in (
        "Teacher and student",
        "Searching pictures",
        "Retrieval",
        "Training",
        "How fast it is here",
        "The pictures",
        "The model",
    ):
        assert title in page
    assert page.count("data:image/png;base64,") > 40

    assert main(words) == 0  # everything is kept
    again = capsys.readouterr()
    assert "$ clip-edge " not in again.err
    assert json.loads(again.out)["steps"] == told["steps"]

    (out / "steps" / "verify.json").unlink()  # as if it had been interrupted there
    assert main(words) == 0
    third = capsys.readouterr().err
    assert third.count("$ clip-edge ") == 3  # verify, and what stands behind it
