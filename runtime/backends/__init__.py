"""The engines that can run a bundle: a table, and one function that opens a tower in one of them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from clip_edge.bundle import Artifact, Bundle
from clip_edge.errors import UnavailableError, unknown_name
from clip_edge.preprocess import Floats

Run = Callable[[np.ndarray], Floats]  # pixel_values (B, 3, S, S) or input_ids (B, L) -> (B, D); any thread may call it


@dataclass(frozen=True)
class Options:
    """How an engine works. `threads=None` leaves the number to the engine, which takes every physical core."""

    threads: int | None = None
    spin: bool = False


@dataclass(frozen=True)
class Backend:
    """One engine: the module that opens towers in it, the targets that it reads (the usual one first), the package."""

    module: str
    targets: tuple[str, ...]
    package: str
    install: str
    summary: str


BACKENDS = {
    "onnxruntime": Backend(
        module="clip_edge.runtime.backends.onnxruntime",
        targets=("onnx",),
        package="onnxruntime",
        install="pip install onnxruntime",
        summary="CPUs on every system",
    ),
}
DEFAULT = "onnxruntime"


class _Module(Protocol):
    def open_tower(self, bundle: Bundle, artifact: Artifact, options: Options) -> Run: ...


def find_backend(name: str) -> Backend:
    """The backend of that name, installed.

    Raises:
        UsageError: no backend of that name (the nearest is named).
        UnavailableError: its package is not installed here.
    """
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    backend = BACKENDS[name]
    if not is_installed(name):
        raise UnavailableError(
            f"backend `{name}` needs the package `{backend.package}`, which is not installed", hint=backend.install
        )
    return backend


def is_installed(name: str) -> bool:
    """Whether the package of a backend in the table can be imported here."""
    return importlib.util.find_spec(BACKENDS[name].package) is not None


def open_tower(name: str, bundle: Bundle, artifact: Artifact, options: Options) -> Run:
    """An artefact of `bundle`, its hash checked, loaded into the backend `name`.

    Raises:
        UsageError, UnavailableError: as `find_backend`.
        BundleError: the file was changed, or the engine cannot read it.
    """
    module = cast(_Module, importlib.import_module(find_backend(name).module))
    return module.open_tower(bundle, artifact, options)
