"""`clip-edge build` from the command line."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from clip_edge.cli import main


def test_engines_for_a_named_gpu(tiny_trt_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--backend", "tensorrt-rtx", "--compute-capability", "sm120", "--precision", "fp16"]
    out = tmp_path / "engines"
    assert main(["build", str(tiny_trt_bundle), *words, "--out", str(out), "--json", "-", "--no-progress"]) == 0
    output = capsys.readouterr()
    engines = json.loads(output.out)["engines"]
    assert [engine["capability"] for engine in engines] == ["sm120", "sm120"]
    assert all(Path(engine["engine"]).stat().st_size == engine["engine_bytes"] for engine in engines)
    assert "the engines were not run: that takes the GPUs they were built for" in output.err


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt_exit_3_says_how_to_get_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(tmp_path)]) == 3
    assert capsys.readouterr().err == (
        "error: TensorRT needs the package `tensorrt`, which is not installed\n"
        "\nhint: pip install tensorrt; on a Jetson `sudo apt-get install python3-libnvinfer` and an environment made "
        "with `--system-site-packages`\n"
    )


def test_a_backend_that_builds_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(tmp_path), "--backend", "tensorrt-rxt"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown backend that builds engines: `tensorrt-rxt`\n"
        "\nhint: did you mean `tensorrt-rtx`? known: tensorrt, tensorrt-rtx\n"
    )
