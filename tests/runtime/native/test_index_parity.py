"""Stored embeddings: one file, three readers (Python, C, clip-edge-cli), one answer."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_edge import runtime
from clip_edge.runtime.index import STORED, Index, Stored, write_index

from .conftest import onnxruntime_library

SPACE = "00ff" * 8


class Hit(ctypes.Structure):
    """clip_edge_hit"""

    _fields_ = [("row", ctypes.c_uint64), ("score", ctypes.c_float)]


def search(library: Any, path: Path, queries: np.ndarray, top: int, threads: int) -> list[list[tuple[int, float]]]:
    index, size, found = ctypes.c_void_p(), ctypes.c_size_t, ctypes.c_size_t()
    library.check(library.c.clip_edge_index_open(str(path).encode(), SPACE.encode(), ctypes.byref(index)))
    hits = (Hit * (len(queries) * top))()
    arguments = ctypes.c_void_p(queries.ctypes.data), size(len(queries)), size(top), threads, hits, size(len(hits))
    library.check(library.c.clip_edge_index_search(index, *arguments, ctypes.byref(found)))
    library.c.clip_edge_index_free(index)
    rows = [[(hit.row, hit.score) for hit in hits[i * top : (i + 1) * top]] for i in range(len(queries))]
    assert found.value == top
    return rows


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("dim", [24, 100, 512])
def test_the_library_finds_what_numpy_finds(library: Any, tmp_path: Path, stored: Stored, dim: int) -> None:
    source = np.random.default_rng(dim)
    rows, queries = (source.standard_normal((n, dim)).astype(np.float32) for n in (3000, 4))
    rows[1500:1600] = rows[:100]  # ties: the earlier row stands first
    write_index(tmp_path / "i", rows, [f"行 {i}" for i in range(3000)], SPACE, stored)
    expected = Index.open(tmp_path / "i").search(queries, 50)
    for threads in (1, 3):
        for hits, reference in zip(search(library, tmp_path / "i", queries, 50, threads), expected, strict=True):
            assert [row for row, _ in hits] == [hit.row for hit in reference]
            np.testing.assert_allclose([score for _, score in hits], [hit.score for hit in reference], rtol=1e-4)


def test_an_index_of_another_model_is_refused(library: Any, tmp_path: Path) -> None:
    write_index(tmp_path / "i", np.eye(3, dtype=np.float32), list("abc"), "1234" * 8)
    with pytest.raises(AssertionError, match=f"its vectors are of embedding space `{'1234' * 8}`; the model's is"):
        search(library, tmp_path / "i", np.eye(3, dtype=np.float32)[:1], 1, 1)


def test_the_command_line_writes_and_reads_the_same_file(cli_path: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    texts, out = ["a red apple", "一只猫", "a dog"], tmp_path / "i.safetensors"
    environment = os.environ | {"ONNXRUNTIME_LIBRARY": onnxruntime_library()}

    def run(*words: object) -> Any:
        command = [str(word) for word in (cli_path, *words, "--json", "-")]
        return json.loads(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)

    made = run("index", tiny_bundle, "--text", *texts, "--out", out)
    assert (made["rows"], made["bytes"]) == (3, out.stat().st_size)
    model = runtime.load(tiny_bundle, threads=1)
    index = Index.open(out, space=model.manifest.embedding.space)
    assert [index.label(row) for row in range(3)] == texts
    (expected,) = index.search(model.encode_texts(["一只猫"]), 2)
    (answer,) = run("search", out, tiny_bundle, "--text", "一只猫", "--top", "2")["queries"]
    assert [(hit["row"], hit["label"]) for hit in answer["hits"]] == [(hit.row, hit.label) for hit in expected]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    write_index(tmp_path / "other", np.eye(24, dtype=np.float32), [""] * 24, "1234" * 8)
    command = [str(cli_path), "search", str(tmp_path / "other"), str(tiny_bundle), "--text", "a"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "its vectors are of embedding space" in done.stderr
    assert done.stderr.endswith("hint: make the index again with this bundle\n")
