"""Files and folders that appear whole or not at all, and readers that trust nothing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_edge import files
from clip_edge.errors import ArtifactError, ConfigError, ExitCode, UnavailableError, UsageError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=6,
)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- folders -------------------------------------------------------------------------------------------------------


def test_a_folder_appears_at_the_end(tmp_path: Path):
    out = tmp_path / "a" / "out"
    with files.new_folder(out) as partial:
        (partial / "x").write_text("1")
        assert not out.exists()
    assert (out / "x").read_text() == "1"
    assert names_in(out.parent) == ["out"]


def test_nothing_is_left_when_the_work_fails(tmp_path: Path):
    def interrupted() -> None:
        with files.new_folder(tmp_path / "out") as partial:
            (partial / "x").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken(tmp_path: Path):
    (tmp_path / "out").mkdir()
    with files.new_folder(tmp_path / "out") as partial:
        (partial / "x").touch()
    assert (tmp_path / "out" / "x").exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_exists_is_never_overwritten(tmp_path: Path, kind: str):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "folder":
        out.mkdir()
        (out / "mine").touch()
    else:
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError) as caught, files.new_folder(out):
        pytest.fail("the block must not run")
    assert str(caught.value) == (
        f"the output folder exists: {out}\n\nhint: name another folder with --out, or remove this one first"
    )
    assert names_in(tmp_path) == ["out"]


def test_the_current_folder_is_no_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"the output folder is the one you are in: \."):
        files.refuse_existing(Path())


def test_a_folder_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write: Not a directory"), files.new_folder(tmp_path / "file" / "out"):
        pytest.fail("the block must not run")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(not Path("/bin/mount").exists(), reason="mount is part of Linux")
def test_a_full_disk_leaves_nothing_and_says_so(small_disk: Path):
    with pytest.raises(UnavailableError) as caught, files.new_folder(small_disk / "out") as partial:
        (partial / "big").write_bytes(bytes(1 << 20))
    assert str(caught.value) == (
        f"the disk is full: nothing was written\n  in: {small_disk / 'out'}\n"
        "\nhint: free some space, or name a folder on another disk with --out"
    )
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    assert list(small_disk.iterdir()) == []


@pytest.mark.skipif(not Path("/bin/mount").exists(), reason="mount is part of Linux")
def test_a_full_disk_keeps_the_old_file(small_disk: Path):
    target = small_disk / "state"
    files.write_file(target, b"old")
    with pytest.raises(UnavailableError, match="the disk is full"):
        files.write_file(target, bytes(1 << 20))
    assert target.read_bytes() == b"old"
    assert names_in(small_disk) == ["state"]


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="cannot write: Is a directory"):
        files.write_file(tmp_path / "out", b"x")
    assert names_in(tmp_path) == ["out"]


# --- JSON ----------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(JSON)
def test_json_comes_back(value: object):
    assert files.parse_json(files.json_bytes(value), where="here") == value


def test_json_is_readable_and_ends_with_one_newline():
    assert files.json_bytes({"b": "红", "a": [1]}) == '{\n  "b": "红",\n  "a": [\n    1\n  ]\n}\n'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_never_written(value: float):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.json_bytes({"x": value})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"x": NaN}', "NaN is not a finite number"),
        ('{"x": -Infinity}', "-Infinity is not a finite number"),
        ('{"x": 1e999}', "1e999 is not a finite number"),
        ('{"x": 1, "y": 2, "x": 1}', "the key `x` is given twice"),
        ('{"x": 1', "Expecting ',' delimiter: line 1 column 8 (char 7)"),
        ("[" * 100_000, "maximum recursion depth exceeded while decoding a JSON array from a unicode string"),
    ],
)
def test_json_that_lies_is_refused(text: str, reason: str):
    with pytest.raises(ConfigError) as caught:
        files.parse_json(text.encode(), where="m.json", error=ConfigError)
    assert str(caught.value) == f"not valid JSON: {reason}\n  in: m.json"


@given(st.binary(max_size=60))
def test_json_readers_raise_nothing_else(data: bytes):
    try:
        value = files.parse_json(data, where="here")
    except ArtifactError:
        return
    assert value == json.loads(data)


def test_reading_is_bounded(tmp_path: Path):
    path = tmp_path / "m.json"
    path.write_bytes(b"12345")
    assert files.read_bounded(path, 5) == b"12345"
    with pytest.raises(ArtifactError, match=r"m\.json is larger than 4 bytes"):
        files.read_bounded(path, 4)
    with pytest.raises(ArtifactError) as caught:
        files.read_json(tmp_path / "none.json", hint="write one")
    assert str(caught.value) == f"missing file: none.json\n  in: {tmp_path / 'none.json'}\n\nhint: write one"


def test_a_folder_and_a_pipe_are_no_files(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ArtifactError, match=f"not a file: {path.name}"):
            files.read_bounded(path, 10)


def test_hashes(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "x") == files.sha256_bytes(b"abc") == hashlib.sha256(b"abc").hexdigest()


# --- paths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "", "a\\..\\x", "a\0b", "link/x", "ring"])
def test_paths_that_leave_the_folder(tmp_path: Path, path: str):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / "ring").symlink_to(folder / "ring")
    with pytest.raises(ArtifactError) as caught:
        files.inside(folder, path)
    assert str(caught.value) == (
        f"a path leaves the folder: `{path}`\n  in: {folder}\n\nhint: the folder was tampered with"
    )


def test_paths_inside_are_given_back(tmp_path: Path):
    assert files.inside(tmp_path, "onnx/model.onnx") == tmp_path / "onnx" / "model.onnx"


PIECES = st.sampled_from(["..", ".", "a", "b", "/", "//", "\\", "~", "\0", "link", " "]) | st.text(max_size=3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, max_size=8).map("/".join))
def test_no_path_escapes(tmp_path: Path, relative: str):
    folder = tmp_path / "bundle"
    folder.mkdir(exist_ok=True)
    if not (folder / "link").is_symlink():
        (folder / "link").symlink_to(tmp_path.parent)
    try:
        path = files.inside(folder, relative)
    except ArtifactError:
        return
    assert Path(os.path.realpath(path)).is_relative_to(folder.resolve())


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e9, "2.0 GB"), (1e16, "10000.0 TB")]
)
def test_human_bytes(count: float, text: str):
    assert files.human_bytes(count) == text
