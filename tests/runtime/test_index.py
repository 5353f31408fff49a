"""Stored embeddings: what is written is found again, exactly as numpy says; what lies is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from clip_edge.errors import ArtifactError, UsageError
from clip_edge.runtime import index as module
from clip_edge.runtime.index import STORED, Index, Stored, write_index

SPACE = "00ff" * 8


def unit(seed: int, count: int, dim: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("stored", STORED)
def test_search_is_numpy_s_answer(tmp_path: Path, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 24 * 100)  # ten blocks
    rows, queries = unit(1, 1003, 24), unit(2, 3, 24)
    labels = [f"Bild {i} 一只猫" for i in range(1003)]
    write_index(tmp_path / "i", rows, labels, SPACE, stored)
    index = Index.open(tmp_path / "i", space=SPACE)
    assert (index.count, index.dim, index.space) == (1003, 24, SPACE)
    exact = queries @ rows.T
    drift = {"float32": 1e-6, "float16": 1e-3, "int8": 1e-2}[stored]
    for hits, scores in zip(index.search(queries, 7), exact, strict=True):
        best = np.sort(scores)[::-1][:7]
        np.testing.assert_allclose([hit.score for hit in hits], best, atol=drift)
        np.testing.assert_allclose([scores[hit.row] for hit in hits], best, atol=2 * drift)
        assert [hit.label for hit in hits] == [labels[hit.row] for hit in hits]


def test_ties_stand_in_row_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 4 * 3)
    write_index(tmp_path / "i", np.eye(4, dtype=np.float32)[[0, 1] * 8], [""] * 16, SPACE)
    (hits,) = Index.open(tmp_path / "i").search(np.eye(4, dtype=np.float32)[:1], 10)
    assert [hit.row for hit in hits] == [0, 2, 4, 6, 8, 10, 12, 14, 1, 3]
    assert len(Index.open(tmp_path / "i").search(np.eye(4, dtype=np.float32)[:1], 99)[0]) == 16


@given(labels=st.lists(st.text(max_size=20), min_size=1, max_size=8))
def test_any_text_is_a_label(labels: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("labels") / "i"
    write_index(path, unit(0, len(labels), 3), labels, SPACE)
    index = Index.open(path)
    assert [index.label(row) for row in range(index.count)] == labels


def test_an_index_of_another_model_is_refused(tmp_path: Path) -> None:
    write_index(tmp_path / "i", unit(0, 2, 3), ["a", "b"], SPACE)
    with pytest.raises(ArtifactError) as caught:
        Index.open(tmp_path / "i", space="1234" * 8)
    assert caught.value.what == "its vectors are of embedding space 00ff00ff00ff…; the model's is 123412341234…"
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings": np.zeros((2, 3), np.int64)}, "`embeddings` must be F32, F16 or I8; found I64"),
        ({"embeddings": np.zeros(2, np.float32)}, "`embeddings` must be (N, D); found (2,)"),
        ({"label_ends": np.array([1], np.int64)}, "`label_ends` must be int64 (N)"),
        ({"label_ends": np.array([3, 2], np.int64)}, "a label ends where it cannot"),
        ({"label_ends": np.array([1, 9], np.int64)}, "a label ends where it cannot"),
        ({"more": np.zeros(1, np.uint8)}, "unknown tensors: ['more']"),
        ({"embeddings": np.zeros((2, 3), np.int8), "scales": np.zeros(1, np.float32)}, "`scales` must be float32 (N)"),
        (
            {"embeddings": np.zeros((2, 3), np.int8), "scales": np.array([1, np.nan], np.float32)},
            "a scale is not finite",
        ),
    ],
)
def test_lies_are_told(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    good = {
        "embeddings": np.zeros((2, 3), np.float32),
        "label_ends": np.array([1, 2], np.int64),
        "labels": np.frombuffer(b"ab", np.uint8),
    }
    (tmp_path / "i").write_bytes(save(good | changes, {"clip_edge_index": "1", "embedding_space": SPACE}))
    with pytest.raises(ArtifactError) as caught:
        Index.open(tmp_path / "i")
    assert caught.value.what == f"not an index: {message}"


def test_what_is_no_index_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such index"):
        Index.open(tmp_path / "i")
    (tmp_path / "i").write_bytes(save({"x": np.zeros(1)}))
    with pytest.raises(ArtifactError, match="a safetensors file, and no index"):
        Index.open(tmp_path / "i")
    whole = save({"x": np.zeros(1)}, {"clip_edge_index": "1", "embedding_space": SPACE})
    for damaged in (b"", whole[:-1], whole[3:], b"\xff" * 99, whole):
        (tmp_path / "i").write_bytes(damaged)
        with pytest.raises(ArtifactError, match="not an index"):
            Index.open(tmp_path / "i")


def test_wrong_rows_and_queries_are_told(tmp_path: Path) -> None:
    rows = unit(0, 2, 3)
    with pytest.raises(UsageError, match="one label for each row"):
        write_index(tmp_path / "i", rows, ["a"], SPACE)
    with pytest.raises(UsageError, match="NaN or infinity"):
        write_index(tmp_path / "i", rows * np.float32(np.inf), ["a", "b"], SPACE)
    assert not (tmp_path / "i").exists()
    write_index(tmp_path / "i", rows, ["a", "b"], SPACE)
    for queries in (rows[:, :2], rows[0], rows * np.float32(np.nan)):
        with pytest.raises(UsageError, match="finite queries of shape"):
            Index.open(tmp_path / "i").search(queries)
