"""`clip-edge run` from the command line: scores, and every kind of picture that goes wrong."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_edge.cli import main
from clip_edge.runtime import load


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (40, 30), "red").save(path)
    return path


def run(*words: str | Path) -> int:
    return main(["run", *map(str, words), "-q", "--threads", "1"])


def scores(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    value = json.loads(capsys.readouterr().out)
    assert isinstance(value, dict)
    return value


def test_scores_are_those_of_the_runtime(tiny_bundle: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["a red apple", "a blue car", "一只猫"]
    assert run(tiny_bundle, "--image", picture, "--text", *texts, "--json", "-") == 0
    (image,) = scores(capsys)["images"]
    with load(tiny_bundle, threads=1) as model:
        expected = model.classify([picture], texts)[0]
    found = {score["text"]: score["probability"] for score in image["scores"]}
    assert [found[text] for text in texts] == pytest.approx(expected.tolist(), abs=1e-6)
    shares = [score["probability"] for score in image["scores"]]
    assert shares == sorted(shares, reverse=True)
    assert set(image["stages_s"]) == {"decode", "preprocess", "encode"}


def test_the_table_names_pictures_and_sentences(
    tiny_bundle: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_bundle, "--image", picture, "--text", "apple", "car", "--top", "1") == 0
    output = capsys.readouterr()
    assert "red.png" in output.out
    assert ("apple" in output.out) != ("car" in output.out)
    assert output.err == ""


def test_templates_are_applied(tiny_bundle: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [tiny_bundle, "--image", picture, "--text", "cat", "dog", "--template", "a picture of {}", "--json", "-"]
    assert run(*words) == 0
    (image,) = scores(capsys)["images"]
    with load(tiny_bundle, threads=1) as model:
        expected = model.classify([picture], ["cat", "dog"], ["a picture of {}"])[0]
    found = {score["text"]: score["probability"] for score in image["scores"]}
    assert [found["cat"], found["dog"]] == pytest.approx(expected.tolist(), abs=1e-6)


def test_one_broken_picture_does_not_stop_the_others(
    tiny_bundle: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    assert run(tiny_bundle, "--image", empty, picture, "--text", "cat", "--json", "-") == 2
    output = capsys.readouterr()
    first, second = json.loads(output.out)["images"]
    assert first["error"]["where"] == str(empty)
    assert second["scores"][0]["text"] == "cat"
    assert output.err == (
        f"warning: the picture is empty (0 bytes)\n  in: {empty}\n"
        "\nhint: the file is damaged or cut off: copy it again, or leave it out\n"
        "warning: 1 of 2 pictures could not be read\n"
    )


def bomb() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "no such picture\n"),
        (b"plain text", "not a picture that clip-edge reads\n"),
        (bomb(), "the picture is too large: 1,600,000,000 pixels, at most 100,000,000 are read\n"),
        (b"\xff\xd8\xff\xe0", "the picture cannot be decoded: "),
    ],
)
def test_bad_pictures_are_exit_2(
    data: bytes | None, message: str, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.png"
    if data is not None:
        path.write_bytes(data)
    assert run(tiny_bundle, "--image", path, "--text", "cat") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"warning: {message}") or data == b"\xff\xd8\xff\xe0"
    assert f"  in: {path}\n" in error


def odd_pictures(folder: Path) -> list[Path]:
    grey = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50
    first, second = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("CMYK", (40, 30), (0, 255, 255, 0)).save(folder / "cmyk.jpg")
    Image.fromarray(grey).save(folder / "sixteen.png")
    first.convert("P").save(folder / "palette.png", transparency=0)
    Image.new("RGBA", (40, 30), (255, 0, 0, 128)).save(folder / "alpha.png")
    first.save(folder / "animated.gif", save_all=True, append_images=[second])
    first.save(folder / "turned.jpg", exif=exif)
    return sorted(folder.iterdir())


def test_odd_pictures_are_scored_without_a_word(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = odd_pictures(tmp_path)
    assert run(tiny_bundle, "--image", *paths, "--text", "cat", "dog", "--json", "-") == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert [image["image"] for image in json.loads(output.out)["images"]] == [str(path) for path in paths]


def test_top_must_be_positive(tiny_bundle: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tiny_bundle, "--image", picture, "--text", "cat", "--top", "0") == 2
    assert capsys.readouterr().err == "error: --top must be at least 1; found 0\n"
