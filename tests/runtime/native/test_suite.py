"""The native tests themselves, on a real bundle: what devices and sanitizers run is run here too."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from .conftest import onnxruntime_library


@pytest.mark.slow
def test_every_native_test_passes_and_none_is_skipped(library_path: Path, tiny_bundle: Path) -> None:
    build = library_path.parents[2]
    environment = os.environ | {"CLIP_EDGE_TEST_BUNDLE": str(tiny_bundle), "ONNXRUNTIME_LIBRARY": onnxruntime_library()}
    command = ["ctest", "--test-dir", str(build), "--output-on-failure", "--no-tests=error"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100% tests passed" in done.stdout
    assert not re.search(r"Skipped|Not Run|Disabled", done.stdout), done.stdout
    for name in ("preprocess", "text", "hostile", "sources", "index", "engine", "consumers"):
        assert re.search(rf"\b{name} \.+ +Passed", done.stdout), done.stdout
