"""An environment for each peer, made once with `uv` from its pinned list and kept in the user's cache folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from clip_edge.benchmarks.peers import PEERS
from clip_edge.errors import UnavailableError
from clip_edge.files import new_folder, sha256_file

LIMIT_S = 1800.0  # PyTorch is gigabytes
VARIABLE = "XDG_CACHE_HOME"
LAST_LINES = 4


def python_of(name: str) -> Path:
    """The interpreter of the peer `name`; the environment is made if it is not there, or its list has changed.

    Raises:
        UnavailableError: no `uv`, no network, or a package has no build for this machine.
    """
    module = PEERS[name].module
    pinned = Path(__file__).with_name(f"{module}.txt")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache_folder() / f"{module}-py{version}-{sha256_file(pinned)[:12]}"
    python = folder / "bin" / "python"
    if not python.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder) as made:
            _uv(name, "venv", "--quiet", "--relocatable", "--clear", "--python", sys.executable, str(made))
            _uv(name, "pip", "install", "--quiet", "--python", str(made / "bin" / "python"), "-r", str(pinned))
    return python


def cache_folder() -> Path:
    """Where the environments lie; deleting it is safe."""
    base = os.environ.get(VARIABLE)
    return (Path(base) if base else Path.home() / ".cache") / "clip-edge" / "peers"


def _uv(name: str, *words: str) -> None:
    beside = Path(sys.executable).with_name("uv")
    program = str(beside) if beside.exists() else shutil.which("uv")
    if program is None:
        raise UnavailableError("peers need `uv`, which makes their environments", hint="pip install uv")
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    try:
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=LIMIT_S, env=environment)
    except subprocess.TimeoutExpired as problem:
        raise UnavailableError(f"the environment of `{name}` took more than {LIMIT_S:.0f} s to make") from problem
    if done.returncode != 0:
        last = "\n  ".join(done.stderr.strip().splitlines()[-LAST_LINES:])
        raise UnavailableError(
            f"the environment of `{name}` cannot be made:\n  {last}",
            hint="it is made once, and needs the package index; see docs/peers.md",
        )
