"""`clip-edge reinforce` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clip_edge.cli import main


@pytest.fixture(scope="module")
def made(tiny_emoji: Path, tiny_open_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reinforced") / "out"
    words = ["reinforce", str(tiny_emoji), "--teacher", f"open_clip:{tiny_open_clip}", "--out", str(out)]
    assert main([*words, "--augmentations", "2", "--langs", "en", "--device", "cpu", "-q"]) == 0
    return out


def test_makes_says_and_verifies(
    made: Path, tiny_emoji: Path, tiny_open_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reinforce", str(tiny_emoji), "--teacher", f"open_clip:{tiny_open_clip}", "--out", str(made)]
    settings = ["--augmentations", "2", "--langs", "en", "--device", "cpu"]
    assert main([*words, *settings, "--json", "-"]) == 0  # nothing is left to do
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["folder"] == str(made / "train")
    assert data["samples"] == 64
    assert data["skipped"] == []
    assert data["bytes"] == sum(path.stat().st_size for path in (made / "train").glob("*.safetensors"))
    assert "64 pictures in 1 shards" in captured.err
    assert main(["reinforce", str(tiny_emoji), "--out", str(made), "--verify", "--device", "cpu"]) == 0
    table = capsys.readouterr().out
    assert "tiny-vit" in table
    assert "yes" in table


def test_a_failed_verification_exits_1(made: Path, tiny_emoji: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clip_edge.distill.reinforce import verify

    monkeypatch.setitem(verify.TOLERANCE, "bf16", 1.1)
    assert main(["reinforce", str(tiny_emoji), "--out", str(made), "--verify", "-q", "--device", "cpu"]) == 1


def test_a_dry_run_writes_nothing(
    tiny_emoji: Path, tiny_open_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reinforce", str(tiny_emoji), "--teacher", f"open_clip:{tiny_open_clip}", "--out", str(tmp_path / "out")]
    assert main([*words, "--dry-run", "--json", "-", "--device", "cpu"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["dry_run"] is True
    assert plan["samples"] == 64
    assert plan["expected_bytes"] == pytest.approx(64 * plan["bytes_per_sample"], rel=0.01)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "code", "start"),
    [
        ([], 2, "error: no teacher\n\nhint: name at least one with --teacher SPEC"),
        (["--teacher", "nowhere"], 2, "error: no such teacher: `nowhere`"),
        (["--teacher", "x", "--augmentations", "0"], 2, "error: --augmentations must lie in 1..1000; found 0"),
        (["--teacher", "x", "--flip", "2"], 2, "error: no such augmentations: `flip` must lie in 0..1; found 2.0"),
        (
            ["--teacher", "x", "--crop-scale", "0.5"],
            2,
            "error: expected --crop-scale LOW,HIGH, as in 0.08,1; found 0.5",
        ),
        (["--teacher", "x", "--randaugment", "9"], 2, "error: no such augmentations: `ops` must lie in 0..8; found 9"),
        (["--teacher", "x", "--dtype", "int9"], 2, "error: unknown dtype: `int9`\n\nhint: did you mean `int8`?"),
        (["--import-datacompdr", "nowhere"], 2, "error: no DataCompDR samples: no tar here has members named"),
        (["--verify", "--out", "nowhere"], 2, "error: no reinforced data for the split `train` in nowhere"),
    ],
)
def test_mistakes_are_answered(
    words: list[str], code: int, start: str, tiny_emoji: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reinforce", str(tiny_emoji), "-q", *words]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(start)
    assert captured.out == ""
