"""What crosses the pipe to a peer's process, and what a peer's file gives back. Standard library and NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class PeerJob:
    """One tower of one bundle in one peer. `source` is what the bundle was exported from, such as `open_clip:…`."""

    module: str
    variant: str
    tower: Literal["image", "text"]
    batch: int
    threads: int
    bundle: str
    source: str
    images: tuple[str, ...]
    texts: tuple[str, ...]
    work: str  # a folder for what the peer converts

    def items(self) -> list[Any]:
        """Encoded pictures, or sentences."""
        return [Path(image).read_bytes() for image in self.images] or list(self.texts)


@dataclass(frozen=True)
class Opened:
    """A loaded peer: encoded pictures or sentences -> its input -> (N, D) embeddings."""

    prepare: Callable[[Sequence[Any]], Any]
    encode: Callable[[Any], np.ndarray]
    file_bytes: int
    packages: tuple[str, ...]  # whose versions the report names
    query: Callable[[Sequence[Any]], Mapping[str, float]] | None = None  # a whole query, when it tells its own stages


class CannotRunError(Exception):
    """The peer does not take this model; the text says why."""


def folder_bytes(path: Path) -> int:
    """The size of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def use_cores(count: int) -> None:
    """Let this process run on `count` cores, for peers that take no number of threads."""
    import os

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
