"""`clip-edge inspect`: each kind of thing, damaged things, and unknown ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clip_edge.cli import main


def inspected(path: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, object]:
    assert main(["inspect", str(path), "--json", "-"]) == code
    told: dict[str, object] = json.loads(capsys.readouterr().out)
    return told


def test_a_data_set(tiny_emoji: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = inspected(tiny_emoji, capsys)
    facts = told["facts"]
    assert isinstance(facts, dict)
    assert told["kind"] == "data set"
    assert told["licences"] == ["CC BY-SA 4.0"]
    assert facts["samples"] == {"train": 64, "val": 16, "test": 16, "unseen": 16}
    assert facts["hashes"] == "all equal"


def test_a_changed_shard_is_exit_code_1(tiny_emoji: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "data"
    shutil.copytree(tiny_emoji, copy)
    shard = copy / "val" / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    told = inspected(copy, capsys, code=1)
    assert told["problems"] == ["val/shard-000000.tar was changed: its SHA-256 differs"]


def test_a_student(tiny_student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = inspected(tiny_student, capsys)
    facts = told["facts"]
    assert isinstance(facts, dict)
    assert (told["kind"], facts["name"], facts["image_px"], facts["embedding_dim"]) == ("student", "tiny", 32, 24)
    assert facts["values"] > 10_000


def test_a_bundle_and_one_byte_flipped(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = inspected(tiny_bundle, capsys)
    facts = told["facts"]
    assert isinstance(facts, dict)
    assert (told["kind"], facts["hashes"], told["research_only"]) == ("bundle", "all equal", False)
    assert {graph["tower"] for graph in facts["graphs"]} == {"image", "text"}

    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    graph = copy / "onnx" / "text_model.onnx"
    data = bytearray(graph.read_bytes())
    data[100] ^= 1
    graph.write_bytes(data)
    assert main(["inspect", str(copy)]) == 1
    assert "error: onnx/text_model.onnx was changed: SHA-256" in capsys.readouterr().err


def test_a_student_for_research_only_says_so(
    tiny_student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "student"
    shutil.copytree(tiny_student, copy)
    info = json.loads((copy / "model.json").read_text())
    info["licences"] = [{"applies_to": "weights", "name": "research terms", "research_only": True}]
    info["research_only"] = True
    (copy / "model.json").write_text(json.dumps(info))
    assert main(["inspect", str(copy)]) == 0
    shown = capsys.readouterr().out
    assert "RESEARCH ONLY" in shown
    assert "weights: research terms (research only)" in shown


def test_unknown_things_say_what_was_looked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "error: nothing that clip-edge knows; looked for\n"
        "  bundle: a folder with manifest.json\n"
        "  student: a folder with model.json\n"
        "  run: a folder with run.json\n"
        "  data set: a folder with dataset.json (others: `clip-edge data check`)\n"
        "  report: report.json, or a folder with it\n"
        f"  in: {tmp_path}\n\n"
        "hint: name the folder itself, not the one around it\n"
    )
    assert main(["inspect", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"error: no such file or folder: {tmp_path / 'none'}\n"


@pytest.mark.parametrize("name", ["manifest.json", "model.json", "run.json", "dataset.json", "report.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"splits": 3, "student": 4, "identity": 5}', b"\xff\xfe"])
def test_damaged_files_are_errors_and_never_tracebacks(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    code = main(["inspect", str(tmp_path)])
    shown = capsys.readouterr().err
    assert code in (1, 2) or (code == 0 and name == "run.json" and content == b"{}")
    assert "unexpected" not in shown


def test_a_model_of_another_library(foreign_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    source = f"open_clip:{foreign_model('open_clip:siglip')}"
    assert main(["inspect", source, "--json", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert (facts["image_px"], facts["resize"], facts["context_length"]) == (32, "squash", 24)
    assert facts["text_tower"] == {"causal": False, "pad_mask": False, "pooling": "last", "activation": "gelu"}
    assert facts["text_cleaning"] == "canonicalize"
    assert facts["logit_bias"] is not None
    assert main(["inspect", "open_clip:RN50"]) == 2
    assert "`open_clip:RN50` names no weights" in capsys.readouterr().err
