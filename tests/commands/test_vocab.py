"""`clip-edge vocab` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clip_edge.cli import main
from clip_edge.distill.models.foreign_tokenizers import read_tokenizer
from clip_edge.distill.models.spec import TokenizerSpec


def test_train_makes_a_tokenizer_that_a_student_can_name(
    tmp_path: Path, tiny_emoji: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corpus.txt").write_text("a red apple\ntwo cats\n" * 20)
    out = tmp_path / "tokenizer.json"
    assert main(["vocab", "train", "--corpus", str(tmp_path / "corpus.txt"), "--size", "300", "--out", str(out)]) == 0
    assert "tokens per sentence" in capsys.readouterr().out
    assert read_tokenizer(TokenizerSpec("trained", 300, str(out)), 16).encode("a red apple")
    student = {
        "name": "tiny",
        "embed_dim": 16,
        "image": {"tower": "timm:resnet10t", "args": {"channels": [8, 8, 8, 16], "stem_width": 8}, "size": 32},
        "text": {"depth": 1, "width": 16, "heads": 2, "context_length": 16, "causal": False, "pad_mask": True},
        "tokenizer": {"kind": "trained", "vocab_size": 300, "file": str(out)},
    }
    (tmp_path / "tiny.json").write_text(json.dumps(student))
    words = ["distill", "clip", "--data", str(tiny_emoji), "--student", str(tmp_path / "tiny.json")]
    settings = ("steps=1", "batch_size=8", "workers=0", "evaluation.split=''", "log.tensorboard=false")
    words += [word for one in settings for word in ("--set", one)]
    assert main([*words, "--out", str(tmp_path / "run"), "--no-progress"]) == 0
    folder = tmp_path / "run" / "student"
    assert (folder / "tokenizer.json").read_bytes() == out.read_bytes()
    assert json.loads((folder / "model.json").read_text())["student"]["tokenizer"]["file"] is None
    capsys.readouterr()
    words = ["vocab", "trim", str(tmp_path / "run"), "--langs", "en", "--out", str(tmp_path / "small"), "--json", "-"]
    assert main([*words, "--no-progress"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sentences"] > 1000
    assert found["tokens_after"] <= found["tokens_before"] == 300


def test_samples_that_cannot_be_read_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "data.csv").write_text("filepath,title\na.png,a cat\nb.png,a dog\n")
    words = ["vocab", "train", "--corpus", str(tmp_path / "data.csv")]
    assert main([*words, "--size", "300", "--out", str(tmp_path / "tokenizer.json"), "--json", "-"]) == 0
    told = capsys.readouterr()
    assert "1 sample of data.csv cannot be read, and their captions do not count" in told.err
    assert json.loads(told.out)["samples_left_out"] == {"data.csv": 1}
