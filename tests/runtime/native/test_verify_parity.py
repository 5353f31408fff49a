"""The self-test of the native library against `clip-edge verify`, on whole bundles and on damaged ones."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from clip_edge.bundle import GOLDEN
from clip_edge.files import sha256_bytes
from clip_edge.runtime.verify import Verification, verify

FORMAT, VERIFICATION = 3, 11  # clip_edge_status


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def restate(folder: Path) -> None:
    """State the hash of the golden file as it is now, and the manifest's own: what is left are its numbers."""
    path, golden = folder / "manifest.json", (folder / GOLDEN).read_bytes()
    table = json.loads(path.read_bytes()) | {"manifest_sha256": "0" * 64}
    table["files"][GOLDEN] = {"sha256": sha256_bytes(golden), "bytes": len(golden)}
    plain = json.dumps(table, indent=2).encode()
    path.write_bytes(plain.replace(b"0" * 64, sha256_bytes(plain).encode()))


def change(folder: Path, name: str, index: tuple[int, ...], value: float) -> None:
    """Set one value of one golden tensor, honestly hashed."""
    tensors = safetensors.numpy.load((folder / GOLDEN).read_bytes())
    tensors[name] = tensors[name].copy()
    tensors[name][index] = value
    (folder / GOLDEN).write_bytes(safetensors.numpy.save(tensors))
    restate(folder)


def assert_same(native: Any, python: Verification) -> None:
    assert native.passed == python.passed
    assert native.files == python.files
    assert native.preprocess_max_grey == python.preprocess_max_grey
    assert native.token_rows_different == python.token_rows_different
    assert native.top1_agreement == pytest.approx(python.top1_agreement["fp32"])
    for check in python.towers:
        found = getattr(native, check.tower)
        assert found.cases == check.cases
        assert found.tolerance == pytest.approx(check.tolerance)
        assert found.passed == check.passed
        assert found.min_cosine == pytest.approx(check.min_cosine, abs=1e-6)
        assert found.mean_cosine == pytest.approx(check.mean_cosine, abs=1e-6)
        assert found.max_abs == pytest.approx(check.max_abs, abs=1e-6)


def test_a_whole_bundle_passes_as_in_python(library: Any, tiny_bundle: Path) -> None:
    status, text, report = library.open(tiny_bundle).verify()
    assert (status, text) == (0, "")
    assert report.passed
    assert_same(report, verify(tiny_bundle, threads=1))


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        (
            "image_embeds",
            (1, 0),
            40.0,
            r"vision_model\.onnx: cosine .* in golden row 1, at least 0\.9999 expected",
        ),
        ("text_embeds", (0, 3), -9.0, r"text_model\.onnx: cosine .* in golden row 0, at least 0\.9999 expected"),
        ("input_ids", (0, 2), 3, r"token ids differ in 1 sentences"),
    ],
)
def test_wrong_numbers_fail_as_in_python(
    library: Any, copy: Path, name: str, index: tuple[int, ...], value: float, message: str
) -> None:
    change(copy, name, index, value)
    status, text, report = library.open(copy).verify()
    assert status == VERIFICATION
    assert re.search(message, text)
    assert not report.passed
    assert_same(report, verify(copy, threads=1))


def test_wrong_pixels_fail_as_in_python(library: Any, copy: Path) -> None:
    pixels = safetensors.numpy.load((copy / GOLDEN).read_bytes())["pixels"]
    change(copy, "pixels", (0, 5, 5, 1), (int(pixels[0, 5, 5, 1]) + 50) % 256)
    status, text, report = library.open(copy).verify()
    assert status == VERIFICATION
    assert f"preprocessing differs by {report.preprocess_max_grey} grey levels, 1 allowed" in text
    assert_same(report, verify(copy, threads=1))


def test_one_flipped_byte_anywhere_is_told(library: Any, copy: Path) -> None:
    source = random.Random(5)
    for path in sorted(path for path in copy.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        at = source.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        if path.name == "manifest.json":
            with pytest.raises(AssertionError, match=r"manifest\.json"):
                library.open(copy)
        else:
            status, text, report = library.open(copy).verify()
            assert status == FORMAT
            assert f"{path.name}: changed: its size or hash" in text
            assert (report.passed, report.files) == (0, 0)
        path.write_bytes(whole)
    assert library.open(copy).verify()[0] == 0


def test_mutated_golden_files_end_in_a_status(library: Any, copy: Path) -> None:
    """With right hashes, so that the reader itself is reached; most damage lies in the header."""
    source, path = random.Random(7), copy / GOLDEN
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    seen = set()
    for turn in range(150):
        damaged = bytearray(whole)
        for _ in range(source.randrange(1, 4)):
            damaged[source.randrange(header if turn % 3 else len(damaged))] = source.randrange(256)
        if source.random() < 0.2:
            del damaged[source.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        restate(copy)
        model = library.open(copy)
        status, text, _ = model.verify()
        model.close()
        assert status in (0, FORMAT, VERIFICATION), text
        assert (status == 0) == (text == "")
        seen.add(status)
    assert FORMAT in seen


def test_the_report_is_optional_and_a_missing_model_is_told(library: Any, tiny_bundle: Path) -> None:
    model = library.open(tiny_bundle)
    assert library.c.clip_edge_model_verify(model.handle, None, 0) == 0
    assert library.c.clip_edge_model_verify(None, None, 0) == 1
    assert library.c.clip_edge_last_error() == b"`model` must not be NULL"
    assert np.isfinite(model.verify()[2].image.min_cosine)
