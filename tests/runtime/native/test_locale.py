"""Numbers in a bundle mean the same in every locale: an app may have set one with a comma in its numbers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = """
import ctypes, locale, sys
from clip_edge.runtime import native
locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
assert locale.localeconv()["decimal_point"] == ","
model, info = ctypes.c_void_p(), native.ModelInfo()
native.check(native.library().clip_edge_model_open(sys.argv[1].encode(), None, ctypes.byref(model)), sys.argv[1])
size = native.size_of(ctypes.sizeof(info))
native.check(native.library().clip_edge_model_get_info(model, ctypes.byref(info), size), sys.argv[1])
print(repr(info.logit_scale), [repr(value) for value in info.preprocess.mean])
"""


def test_a_comma_for_the_decimal_point(library_path: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    if shutil.which("localedef") is None:
        pytest.skip("no localedef to make a locale with")
    made = subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "UTF-8", str(tmp_path / "de_DE.UTF-8")], capture_output=True, check=False
    )
    if not (tmp_path / "de_DE.UTF-8" / "LC_NUMERIC").exists():
        pytest.skip(f"no German locale can be made here: {made.stderr.decode()[:200]}")
    environment = {"LOCPATH": str(tmp_path), "CLIP_EDGE_LIBRARY": str(library_path), "LC_ALL": "de_DE.UTF-8"}
    command = [sys.executable, "-c", PROGRAM, str(tiny_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    scale, mean = manifest["embedding"]["logit_scale"], manifest["image"]["preprocess"]["mean"]
    assert scale != int(scale)
    assert any(value != int(value) for value in mean)
    assert done.stdout.split(" ", 1)[0] == repr(float(np.float32(scale)))
    assert done.stdout.split(" ", 1)[1].strip() == str([repr(float(np.float32(value))) for value in mean])
