"""`clip-edge verify` from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from clip_edge.cli import main


def test_a_good_bundle_passes_with_a_table(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tiny_bundle), "-q"]) == 0
    output = capsys.readouterr()
    assert "image onnx fp32" in output.out
    assert "text onnx fp32" in output.out
    assert "FAILED" not in output.out
    assert output.err == ""


def test_json_is_one_object(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tiny_bundle), "--json", "-", "-q"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["passed"] is True
    assert data["problems"] == []
    assert [row["tower"] for row in data["towers"]] == ["image", "text"]


def test_a_damaged_bundle_is_exit_1_and_named(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    path = bundle / "onnx" / "vision_model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 128
    path.write_bytes(data)
    assert main(["verify", str(bundle), "--json", "-"]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("error: onnx/vision_model.onnx was changed: SHA-256 ")
    assert json.loads(output.out)["error"]["where"] == str(path)


def test_an_unknown_backend_names_the_nearest(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tiny_bundle), "--backend", "onnxruntim"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown backend: `onnxruntim`\n\nhint: did you mean `onnxruntime`? known: coreml, mil, native, "
        "onnxruntime, onnxruntime-cuda, onnxruntime-tensorrt, openvino, openvino-bf16, tensorrt, tensorrt-rtx\n"
    )
