"""Engines are found by everything they depend on, and trusted only by their hash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clip_edge.bundle import Bundle
from clip_edge.errors import UnavailableError
from clip_edge.files import sha256_bytes
from clip_edge.runtime.tensorrt import cache
from clip_edge.runtime.tensorrt.builder import build_engine, parse
from clip_edge.runtime.tensorrt.cache import Entry, Key
from clip_edge.runtime.tensorrt.library import Library, open_library
from clip_edge.runtime.tensorrt.plan import Graph, Profile, read_graph


@pytest.fixture(scope="module")
def library() -> Library:
    pytest.importorskip("tensorrt_rtx_bindings")
    return open_library("tensorrt-rtx")


@pytest.fixture
def graph(tiny_trt_bundle: Path) -> Graph:
    bundle = Bundle.open(tiny_trt_bundle)
    return read_graph(bundle, bundle.manifest.artifact("image", ["trt-rtx"], "fp16"))


@pytest.fixture
def key(graph: Graph, library: Library) -> Key:
    return cache.engine_key(graph, library, "NVIDIA GeForce RTX 4060", "sm89")


@pytest.fixture
def folder(tmp_path: Path, graph: Graph, library: Library, key: Key, tiny_trt_bundle: Path) -> Path:
    """A folder with a real engine in it."""
    built = build_engine(parse(library, (tiny_trt_bundle / graph.path).read_bytes(), "x"), graph, capability="sm89")
    entry = Entry(key, graph.path, sha256_bytes(built.engine), len(built.engine), 1, built.build_s, {"fp16": 18})
    cache.store(tmp_path / "engines", entry, built.engine)
    return tmp_path / "engines"


def test_what_was_stored_is_found(folder: Path, key: Key) -> None:
    found = cache.find(folder, key)
    assert not isinstance(found, str)
    engine, entry = found
    assert engine.startswith(b"vtrt")
    assert entry.key == key
    assert cache.find(folder, replace(key, capability="sm86")) == "not built yet"


@pytest.mark.parametrize(
    "change",
    [
        lambda graph, library: (replace(graph, sha256="1" * 64), library),
        lambda graph, library: (replace(graph, profiles=(Profile(1, 4, 16),)), library),
        lambda graph, library: (replace(graph, tf32=True), library),
        lambda graph, library: (replace(graph, optimization_level=4), library),
        lambda graph, library: (graph, replace(library, version="1.8.0.1")),
        lambda graph, library: (graph, replace(library, name="tensorrt")),
    ],
)
def test_another_anything_is_another_engine(
    change: Callable[[Graph, Library], tuple[Graph, Library]], graph: Graph, library: Library, key: Key
) -> None:
    other = cache.engine_key(*change(graph, library), "NVIDIA GeForce RTX 4060", "sm89")
    assert other.name != key.name


def test_memory_limits_the_builder_and_not_the_engine(graph: Graph, library: Library, key: Key) -> None:
    other = replace(graph, workspace_bytes=graph.workspace_bytes // 2)
    assert cache.engine_key(other, library, "NVIDIA GeForce RTX 4060", "sm89").name == key.name


def test_rtx_engines_fit_every_gpu_of_a_capability_and_others_only_their_own(graph: Graph, library: Library) -> None:
    def names(flavour: Library) -> set[str]:
        return {cache.engine_key(graph, flavour, device, "sm89").name for device in ("RTX 4060", "RTX 4090")}

    assert len(names(library)) == 1
    assert len(names(replace(library, name="tensorrt"))) == 2


def damage_engine(engine: Path, record: Path) -> None:
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.write_bytes(data)


def cut_engine(engine: Path, record: Path) -> None:
    engine.write_bytes(engine.read_bytes()[:-1])


def lose_engine(engine: Path, record: Path) -> None:
    engine.unlink()


def damage_record(engine: Path, record: Path) -> None:
    record.write_text(record.read_text().replace('"graph"', '"grap"'))


def rename_record(engine: Path, record: Path) -> None:
    record.write_text(record.read_text().replace('"capability": "sm89"', '"capability": "sm86"'))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_engine, "the engine was changed: its hash differs"),
        (cut_engine, "the engine was changed: its hash differs"),
        (lose_engine, "the entry is damaged (missing file: "),
        (damage_record, "the entry is damaged ("),
        (rename_record, "the entry belongs to another engine"),
    ],
)
def test_a_damaged_entry_is_never_used(
    damage: Callable[[Path, Path], None], reason: str, folder: Path, key: Key
) -> None:
    damage(folder / f"{key.name}.engine", folder / f"{key.name}.json")
    found = cache.find(folder, key)
    assert isinstance(found, str)
    assert found.startswith(reason)


def test_a_folder_that_others_may_write_is_refused(folder: Path, key: Key) -> None:
    folder.chmod(0o777)
    with pytest.raises(UnavailableError) as caught:
        cache.find(folder, key)
    assert caught.value.what == "others may write into the folder of engines, which hold machine code"
    assert caught.value.exit_code == 3


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache.default_folder() == tmp_path / "cache" / "clip-edge" / "engines"
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "mine"))
    assert cache.default_folder() == tmp_path / "mine"
