"""Engines that were built on this machine: found again by what they depend on, trusted only by their hash."""

from __future__ import annotations

import os
import platform
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_edge.errors import ArtifactError, UnavailableError
from clip_edge.files import json_bytes, parse_json, read_bounded, sha256_bytes, write_file
from clip_edge.runtime.tensorrt.library import Library
from clip_edge.runtime.tensorrt.plan import Graph
from clip_edge.schema import as_dict, build

MAX_ENGINE_BYTES = 4 * 1024**3
MAX_ENTRY_BYTES = 1024 * 1024
TIMING_BYTES = 256 * 1024 * 1024
VARIABLE = "CLIP_EDGE_ENGINES"


@dataclass(frozen=True)
class Key:
    """Everything that an engine depends on. Another value of anything is another engine."""

    graph_sha256: str
    library: str
    version: str
    device: str
    capability: str
    system: str
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of the files."""
        return sha256_bytes(json_bytes(as_dict(self)))[:32]


@dataclass(frozen=True)
class Entry:
    """The file beside an engine. Written after it, so that half an engine is never found."""

    key: Key
    graph: str
    engine_sha256: str
    engine_bytes: int
    workspace_bytes: int
    build_s: float
    layers: dict[str, int]


def engine_key(graph: Graph, library: Library, device: str, capability: str) -> Key:
    """The key of the engine of `graph` for one device. An engine of TensorRT-RTX fits every GPU of its capability."""
    return Key(
        graph_sha256=graph.sha256,
        library=library.name,
        version=library.version,
        device="" if library.is_rtx else device,
        capability=capability,
        system=f"{platform.system()} {platform.machine()}",
        settings=graph.settings,
    )


def default_folder() -> Path:
    """Where engines lie: `$CLIP_EDGE_ENGINES`, or `clip-edge/engines` in the user's cache."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "clip-edge" / "engines"


def find(folder: Path, key: Key) -> tuple[bytes, Entry] | str:
    """The engine of that key with its entry, or the reason why there is none."""
    _refuse_open_folder(folder)
    record = folder / f"{key.name}.json"
    if not record.exists():
        return "not built yet"
    try:
        entry = _read(record)
        engine = read_bounded(folder / f"{key.name}.engine", MAX_ENGINE_BYTES)
    except ArtifactError as problem:
        return f"the entry is damaged ({problem.what})"
    if entry.key != key:
        return "the entry belongs to another engine"
    if sha256_bytes(engine) != entry.engine_sha256:
        return "the engine was changed: its hash differs"
    return engine, entry


def store(folder: Path, entry: Entry, engine: bytes) -> None:
    """Keep an engine; readers see the old one or the new one."""
    make_folder(folder)
    (folder / f"{entry.key.name}.json").unlink(missing_ok=True)
    write_file(folder / f"{entry.key.name}.engine", engine)
    write_file(folder / f"{entry.key.name}.json", json_bytes(as_dict(entry)))


def read_timing(folder: Path, name: str) -> bytes | None:
    """The timing cache of earlier builds, or None."""
    path = folder / name
    return read_bounded(path, TIMING_BYTES) if path.is_file() else None


def make_folder(folder: Path) -> None:
    """The cache folder, which only its owner may read."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _refuse_open_folder(folder)


def _read(path: Path) -> Entry:
    return build(Entry, parse_json(read_bounded(path, MAX_ENTRY_BYTES), where=path), where=path, error=ArtifactError)


def _refuse_open_folder(folder: Path) -> None:
    """An engine holds machine code: whoever may write here runs code as this user."""
    if not folder.exists() or os.name == "nt":
        return
    found = folder.stat()
    if found.st_uid not in (os.getuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnavailableError(
            "others may write into the folder of engines, which hold machine code",
            where=folder,
            hint=f"`chmod go-w {folder}` after a look at what is in it, or name another folder in {VARIABLE}",
        )
