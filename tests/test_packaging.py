"""Installing from nothing: every dependency is pinned once, and an old Python is told so."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PINNED = re.compile(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)( ; .+)?")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~ ;]", name, maxsplit=1)[0]).lower()


def test_every_line_of_the_constraints_is_one_exact_version():
    """No hosts, no paths, and no builds of one machine such as 2.0+cpu."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not PINNED.fullmatch(line)] == []
    names = [line.partition("==")[0] for line in lines]
    assert len(names) == len(set(names))


def test_every_package_that_is_asked_for_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = {normal(entry) for entry in project["project"]["dependencies"] + project["build-system"]["requires"]}
    for group in (*project["project"]["optional-dependencies"].values(), *project["dependency-groups"].values()):
        asked |= {normal(entry) for entry in group if isinstance(entry, str)}
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    assert asked - pinned - {"clip-edge"} == set()
    assert {"uv", "pip"} <= pinned


@pytest.mark.parametrize(
    ("program", "found"),
    [("#!/bin/sh\n[ $1 = -V ] && echo Python 3.9.6\n", "Python 3.9.6"), ("", "none")],
    ids=["old", "none"],
)
def test_an_old_python_is_told_so(tmp_path: Path, program: str, found: str):
    python = tmp_path / "python3"
    if program:
        python.write_text(program)
        python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "CLIP_EDGE_VENV": str(tmp_path / "venv")}
    environment.pop("MAKECMDGOALS", None)  # set when `make test` runs this
    done = subprocess.run([ROOT / "scripts" / "install"], env=environment, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr == (
        f"error: clip-edge needs Python 3.11 or newer; found {found}\n"
        "\nhint: install a newer one, or name it: PYTHON=/path/to/python3.12 make install\n"
    )
    assert not (tmp_path / "venv").exists()
