"""`clip-edge index` and `clip-edge search`: the way there and back, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_edge.cli import main
from clip_edge.runtime import load


def run(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> Any:
    assert main([*map(str, words), "--json", "-"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    source = np.random.default_rng(5)
    for name in ("a.png", "b.png", "more/c.JPG"):
        Image.fromarray(source.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / name)
    (folder / "note.txt").write_text("no picture")
    return folder


@pytest.mark.parametrize("store", ["float32", "float16"])  # int8 rounds away what tells noise from noise
def test_a_picture_finds_itself(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, pictures: Path, tmp_path: Path, store: str
) -> None:
    out = tmp_path / "i.safetensors"
    words = ("index", tiny_bundle, "--images", pictures, "--out", out, "--store", store, "--threads", 1)
    made = run(capsys, *words)
    assert (made["rows"], made["left_out"], made["store"]) == (3, 0, store)
    assert made["bytes"] == out.stat().st_size
    found = run(capsys, "search", out, tiny_bundle, "--image", pictures / "more" / "c.JPG", "--top", 2, "--threads", 1)
    (answer,) = found["queries"]
    assert [len(answer["hits"]), answer["hits"][0]["row"]] == [2, 2]
    assert answer["hits"][0]["label"] == str(pictures / "more" / "c.JPG")
    assert answer["hits"][0]["score"] == pytest.approx(1, abs=0.02)


def test_sentences_are_found_by_sentences(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text("a red apple\n\n一只猫\r\na dog\n", encoding="utf-8")
    out = tmp_path / "i"
    assert run(capsys, "index", tiny_bundle, "--texts", tmp_path / "t.txt", "--out", out)["rows"] == 3
    found = run(capsys, "search", out, tiny_bundle, "--text", "一只猫", "a dog")
    assert [answer["hits"][0]["label"] for answer in found["queries"]] == ["一只猫", "a dog"]
    model = load(tiny_bundle, threads=1)
    expected = model.encode_texts(["a dog"]) @ model.encode_texts(["a red apple", "一只猫", "a dog"]).T
    scores = {hit["row"]: hit["score"] for hit in found["queries"][1]["hits"]}
    assert [scores[row] for row in range(3)] == pytest.approx(expected[0].tolist(), abs=1e-5)


def test_a_broken_picture_is_left_out_and_told(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "a.png").write_bytes(b"\x89PNG broken")
    assert (
        main(["index", str(tiny_bundle), "--images", str(pictures), "--out", str(tmp_path / "i"), "--json", "-"]) == 0
    )
    captured = capsys.readouterr()
    assert (json.loads(captured.out)["rows"], json.loads(captured.out)["left_out"]) == (2, 1)
    assert "left out: " in captured.err
    assert "a.png" in captured.err


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["index", "BUNDLE", "--out", "x"], 2, "one of the arguments --images --texts is required"),
        (["index", "BUNDLE", "--images", "EMPTY", "--out", "NEW"], 2, "no pictures here"),
        (["index", "BUNDLE", "--texts", "NEW", "--out", "NEW"], 2, "missing file: new"),
        (["index", "BUNDLE", "--images", "EMPTY", "--out", "EMPTY"], 2, "cannot write EMPTY: --out names a file in an"),
        (["search", "NEW", "BUNDLE"], 2, "nothing to search for: --text or --image is missing"),
        (["search", "NEW", "BUNDLE", "--text", "a", "--top", "0"], 2, "--top must be at least 1; found 0"),
        (["search", "NEW", "BUNDLE", "--text", "a"], 2, "no such index"),
    ],
)
def test_mistakes_are_told(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path, words: list[str], code: int, what: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"BUNDLE": str(tiny_bundle), "EMPTY": str(tmp_path / "empty"), "NEW": str(tmp_path / "new")}
    found = run(capsys, *[places.get(word, word) for word in words], code=code)["error"]["what"]
    assert found.startswith(what.replace("EMPTY", places["EMPTY"]))
