import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from clip_edge.cli import main

SMALL = ["--images", "6", "--eval-images", "3", "--emojis", "16", "--unseen", "4", "--size", "48", "--workers", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "emoji"
    assert main(["data", "emoji", "--out", str(out), *SMALL, "-q"]) == 0
    return out


def test_emoji_then_check(data, capsys):
    assert main(["data", "check", str(data), "--json", "-", "-q"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["problems"] == []
    assert report["samples"] == 15
    assert report["splits"]["val"]["captions"]["zh"]["samples"] == 3


def test_emoji_json_and_talk(tmp_path, capsys):
    assert main(["data", "emoji", "--out", str(tmp_path / "d"), *SMALL, "--langs", "fr", "--json", "-"]) == 0
    seen = capsys.readouterr()
    found = json.loads(seen.out)
    assert found["langs"] == ["fr"]
    assert {split: table["samples"] for split, table in found["splits"].items()} == {
        "train": 6,
        "val": 3,
        "test": 3,
        "unseen": 3,
    }
    assert "composing: 15/15 scenes" in seen.err


def test_the_dry_run_writes_nothing(tmp_path, capsys):
    assert main(["data", "emoji", "--out", str(tmp_path / "d"), *SMALL, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("would write 15 scenes of up to 16 emoji to ")
    assert list(tmp_path.iterdir()) == []


def test_existing_output(data, capsys):
    assert main(["data", "emoji", "--out", str(data), *SMALL]) == 2
    assert capsys.readouterr().err == (
        f"error: the output folder exists: {data}\n\nhint: name another folder with --out, or remove this one first\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--langs", "en,zhh"], "error: unknown language: `zhh`\n\nhint: did you mean `zh`?"),
        (["--objects", "one"], "error: --objects needs a range such as 1-4; found `one`\n"),
        (["--objects", "1-5"], "error: --objects needs a range within 1-4; found `1-5`\n"),
        (["--unseen", "2"], "error: 14 seen and 2 unseen emoji cannot fill scenes of 4\n"),
        (["--sice", "96"], "error: unknown option: `--sice`\n\nhint: did you mean `--size`?"),
    ],
)
def test_wrong_options(tmp_path, capsys, words, message):
    assert main(["data", "emoji", "--out", str(tmp_path / "d"), *SMALL, *words]) == 2
    assert capsys.readouterr().err.startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_check_of_an_empty_folder(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: the data set is empty: no samples found\n  in: {tmp_path}\n\n"
        "hint: expected a folder of tar shards, a .csv or .tsv file, or one folder per class\n"
    )


def test_check_names_problems_and_ends_with_one(tmp_path, capsys):
    for i in range(30):
        (tmp_path / "cat").mkdir(exist_ok=True)
        (tmp_path / "cat" / f"{i:02d}.png").write_bytes(b"")
    Image.new("RGB", (9, 9)).save(tmp_path / "cat" / "fine.png")
    assert main(["data", "check", str(tmp_path), "--json", str(tmp_path / "r.json"), "-q"]) == 1
    out = capsys.readouterr().out
    assert "30 problems: 30 empty picture" in out
    assert f"  train: empty picture: cat/00.png in {tmp_path}/cat/00.png: the picture has 0 bytes\n" in out
    assert out.count("empty picture: ") == 20
    assert "… and 10 more; --json F lists all of them" in out
    assert len(json.loads((tmp_path / "r.json").read_text())["problems"]) == 30


def test_check_of_a_table_with_its_own_columns_and_a_sheet(tmp_path, capsys):
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("bild,text\na.png,ein Bild\n")
    sheet = tmp_path / "sheet.png"
    assert main(["data", "check", str(tmp_path / "t.csv"), "--columns", "bild,text", "--sheet", str(sheet)]) == 0
    assert "no problems found" in capsys.readouterr().out
    with Image.open(sheet) as image:
        assert image.size[0] > 192
    assert main(["data", "check", str(tmp_path / "t.csv"), "--columns", "bild"]) == 2
    assert "--columns needs two names such as filepath,title; found `bild`" in capsys.readouterr().err


def test_check_limit_and_sheet_folder(data, tmp_path, capsys):
    assert main(["data", "check", str(data), "--limit", "0"]) == 2
    assert capsys.readouterr().err == "error: --limit must be at least 1; found 0\n"
    assert main(["data", "check", str(data), "--sheet", str(tmp_path / "no" / "s.png")]) == 2
    assert capsys.readouterr().err.startswith(f"error: no such folder: {tmp_path / 'no'}\n")


def test_making_data_loads_no_torch(tmp_path):
    code = (
        "import sys; from clip_edge.cli import main;"
        f"code = main(['data', 'emoji', '--out', {str(tmp_path / 'd')!r}, *{SMALL!r}, '-q']);"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0
