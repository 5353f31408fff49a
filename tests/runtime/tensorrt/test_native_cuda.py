"""The driver calls of the plug-in for C and C++, on the simulated driver."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_the_plug_in_calls_the_driver_rightly(driver_file: Path, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    plugin, here = ROOT / "runtime" / "plugins" / "tensorrt", Path(__file__).parent
    program = tmp_path / "native"
    folders = [plugin, ROOT / "runtime" / "include", ROOT / "runtime" / "src"]
    words = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-o", str(program)]
    sources = [here / "gpu" / "native.cpp", plugin / "cuda.cpp"]
    subprocess.run([*words, *map(str, sources), *(f"-I{folder}" for folder in folders), "-ldl"], check=True)
    environment = os.environ | {"LD_LIBRARY_PATH": str(driver_file.parent)}
    done = subprocess.run([program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
