"""`clip-edge run` with --segment, --point and --box: masks, the overlay, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_edge.cli import main
from clip_edge.overlay import LINE_PX
from clip_edge.runtime import load


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (240, 300, 3), dtype=np.uint8)).save(path)
    return path


def run(*words: str | Path) -> int:
    return main(["run", *map(str, words), "-q", "--threads", "1"])


def test_words_become_masks_and_a_picture(
    tiny_segment_bundle: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mask.png"
    words = ["--text", "a red apple", "a dog", "--segment", "--out", out, "--json", "-"]
    assert run(tiny_segment_bundle, "--image", picture, *words) == 0
    data = json.loads(capsys.readouterr().out)
    with load(tiny_segment_bundle, threads=1) as model:
        labels = model.segment(picture, ["a red apple", "a dog"]).labels
    assert [item["name"] for item in data["found"]] == ["a red apple", "a dog"]
    assert [item["pixels"] for item in data["found"]] == [(labels == 0).sum(), (labels == 1).sum()]
    assert (data["width"], data["height"], data["out"]) == (300, 240, str(out))
    assert set(data["stages_s"]) == {"decode", "preprocess", "encode"}
    with Image.open(out) as shown:
        assert shown.size == (300, 240 + 2 * LINE_PX)


@pytest.mark.parametrize("words", [["--point", "150,120"], ["--box", "40,20,260,220"]])
def test_places_become_a_mask(
    words: list[str], tiny_segment_bundle: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_segment_bundle, "--image", picture, *words, "--json", "-") == 0
    (found,) = json.loads(capsys.readouterr().out)["found"]
    assert set(found) == {"name", "share", "pixels", "box", "expected_iou"}
    assert found["name"] in ("point 150,120", "box 40,20,260,220")


def test_without_background_all_that_is_seen_is_the_word(
    tiny_segment_bundle: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--text", "a dog", "--segment", "--background", "", "--json", "-"]
    assert run(tiny_segment_bundle, "--image", picture, *words) == 0
    (found,) = json.loads(capsys.readouterr().out)["found"]
    assert (found["share"], found["box"]) == (0.8, [30, 0, 270, 240])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "what to look for is missing\n\nhint: add --text, or --point or --box for an outline"),
        (["--segment"], 'error: --segment needs words to look for\n\nhint: add --text "a red apple"'),
        (["--text", "a", "--out", "x.png"], "--out belongs to --segment, --point or --box\n\nhint: add one of them"),
        (["--segment", "--text", "a", "--point", "1,1"], "--segment asks by words, --point and --box by place"),
        (["--text", "a", "--box", "1,1,2,2"], "--point and --box take no --text\n\nhint: use --segment with --text"),
        (["--segment", "--text", "a", "--out", "x.jpg"], "--out must end with .png; found `x.jpg`"),
        (["--point", "1"], "--point must be X,Y in pixels; found `1`"),
        (["--point", "nan,1"], "--point must be X,Y in pixels; found `nan,1`"),
        (["--box", "1,2,3"], "--box must be X0,Y0,X1,Y1 in pixels; found `1,2,3`"),
        (["--point", "301,1"], "the point 301,1 lies outside the picture, which has 300 × 240 pixels"),
        (["--point", "1,1"], "lies outside the square that the model sees: x 30 to 270, y 0 to 240"),
    ],
)
def test_what_cannot_be_is_exit_2(
    words: list[str], message: str, tiny_segment_bundle: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_segment_bundle, "--image", picture, *words) == 2
    assert message in capsys.readouterr().err


def test_one_picture_at_a_time(tiny_segment_bundle: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tiny_segment_bundle, "--image", picture, picture, "--segment", "--text", "a") == 2
    assert "one --image expected for outlines; found 2" in capsys.readouterr().err


def test_a_bundle_without_graphs_says_how_to_get_them(
    tiny_bundle: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_bundle, "--image", picture, "--segment", "--text", "a dog") == 1
    assert capsys.readouterr().err == (
        "error: the bundle has no graph `encoder` for target `onnx`\n"
        "\nhint: export it again with --target onnx --segment\n"
    )
