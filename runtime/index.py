"""Stored embeddings: one safetensors file with a label for each row, and exact search in it.

`embeddings` (N, D) is float32, float16, or int8 with `scales` (N) float32; `labels` are the labels one after the other
in UTF-8, `label_ends` (N) int64 says where each ends. The metadata name the embedding space: a file is never searched
with another model's vectors. libclip_edge maps and searches the same file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from clip_edge.errors import ArtifactError, UsageError
from clip_edge.files import write_file
from clip_edge.preprocess import Floats

VERSION = "1"
BLOCK_BYTES = 16 * 1024 * 1024  # of rows that are widened and multiplied at a time
MAKE_AGAIN = "make it again with `clip-edge index`"

Stored = Literal["float32", "float16", "int8"]
STORED: tuple[Stored, ...] = get_args(Stored)


@dataclass(frozen=True)
class Hit:
    """A stored row near a query; `score` is the dot product, the cosine where embeddings are unit vectors."""

    row: int
    score: float
    label: str


def write_index(path: Path, embeddings: Floats, labels: Sequence[str], space: str, stored: Stored = "float32") -> None:
    """Write (N, D) embeddings of the embedding space `space` and their N labels, whole or not at all.

    float16 halves the file and moves a cosine by less than 1e-3; int8 quarters it and moves it by less than 1e-2.

    Raises:
        UsageError: no rows, rows that are not finite, or another number of labels.
    """
    if embeddings.ndim != 2 or 0 in embeddings.shape or len(labels) != len(embeddings):
        raise UsageError(f"one label for each row expected; found {embeddings.shape} and {len(labels)} labels")
    if not np.isfinite(embeddings).all():
        raise UsageError("an embedding holds NaN or infinity")
    texts = [label.encode("utf-8", "replace") for label in labels]
    tensors = _packed(embeddings, stored)
    tensors["label_ends"] = np.cumsum([len(text) for text in texts], dtype=np.int64)
    if any(texts):
        tensors["labels"] = np.frombuffer(b"".join(texts), np.uint8)
    write_file(path, save(tensors, {"clip_edge_index": VERSION, "embedding_space": space}))


def _packed(embeddings: Floats, stored: Stored) -> dict[str, np.ndarray]:
    if stored != "int8":
        return {"embeddings": np.ascontiguousarray(embeddings, np.dtype(stored))}
    scales = np.abs(embeddings).max(1) / 127  # (N, D) -> (N,)
    steps = np.rint(embeddings / np.where(scales == 0, 1, scales)[:, None])
    return {"embeddings": steps.astype(np.int8), "scales": scales.astype(np.float32)}


class Index:
    """An open file of embeddings, read block by block: memory stays small however many rows it has."""

    def __init__(self, path: Path, file: Any, tensors: dict[str, np.ndarray]) -> None:
        self.path = path
        self.space: str = file.metadata()["embedding_space"]
        self._rows = file.get_slice("embeddings")
        self.count, self.dim = self._rows.get_shape()
        self._scales = tensors.get("scales")
        self._ends = tensors["label_ends"]
        self._labels = tensors.get("labels", np.empty(0, np.uint8)).tobytes()

    @classmethod
    def open(cls, path: Path, *, space: str | None = None) -> Self:
        """Open a file that `write_index` or `clip-edge-cli index` wrote.

        Raises:
            UsageError: no such file.
            ArtifactError: damaged, something else, or of another embedding space than `space`.
        """
        if not path.is_file():
            raise UsageError("no such index", where=path, hint="`clip-edge index BUNDLE --out INDEX` makes one")
        try:
            file: Any = safe_open(path, framework="numpy")
            if (file.metadata() or {}).get("clip_edge_index") != VERSION:
                raise ArtifactError("a safetensors file, and no index", where=path, hint=MAKE_AGAIN)
            index = cls(path, file, _checked(file, path))
        except (SafetensorError, KeyError, OSError) as problem:
            raise ArtifactError(f"not an index: {problem}", where=path, hint=MAKE_AGAIN) from problem
        if space is not None and index.space != space:
            raise ArtifactError(
                f"its vectors are of embedding space {index.space[:12]}…; the model's is {space[:12]}…",
                where=path,
                hint="make the index again with this bundle: vectors of two models cannot be compared",
            )
        return index

    def label(self, row: int) -> str:
        """The label of a row."""
        start = int(self._ends[row - 1]) if row else 0
        return self._labels[start : int(self._ends[row])].decode("utf-8", "replace")

    def search(self, queries: Floats, top: int = 5) -> list[list[Hit]]:
        """(Q, D) -> for each query the `top` rows with the greatest dot product, equal ones in row order.

        Raises:
            UsageError: queries of another width, or not finite.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim or not np.isfinite(queries).all():
            raise UsageError(f"finite queries of shape (any, {self.dim}) expected; found {queries.shape}")
        best_rows: np.ndarray = np.empty((len(queries), 0), np.int64)
        best_scores: np.ndarray = np.empty((len(queries), 0), np.float32)
        block = max(1, BLOCK_BYTES // (4 * self.dim))
        for start in range(0, self.count, block):
            with np.errstate(invalid="ignore", over="ignore"):  # a row that is no number comes last
                scores = queries @ self._block(start, min(start + block, self.count)).T  # (Q, D) @ (D, B) -> (Q, B)
            rows = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
            best_rows = np.concatenate(
                [best_rows, rows], axis=1
            )  # earlier rows first: a stable sort keeps ties in order
            best_scores = np.concatenate([best_scores, scores], axis=1)
            order = np.argsort(-best_scores, axis=1, kind="stable")[:, :top]
            best_rows, best_scores = (np.take_along_axis(x, order, 1) for x in (best_rows, best_scores))
        return [
            [Hit(int(row), float(score), self.label(int(row))) for row, score in zip(rows, scores, strict=True)]
            for rows, scores in zip(best_rows, best_scores, strict=True)
        ]

    def _block(self, start: int, end: int) -> Floats:
        """Rows start..end-1."""
        rows: Floats = self._rows[start:end].astype(np.float32)
        if self._scales is not None:
            rows *= self._scales[start:end, None]
        return rows


def _checked(file: Any, path: Path) -> dict[str, np.ndarray]:
    """The small tensors, after the shapes, types and ends of all were compared."""

    def need(holds: bool, what: str) -> None:
        if not holds:
            raise ArtifactError(f"not an index: {what}", where=path, hint=MAKE_AGAIN)

    names = set(file.keys())
    shape, stored = tuple(file.get_slice("embeddings").get_shape()), file.get_slice("embeddings").get_dtype()
    need(len(shape) == 2 and 0 not in shape, f"`embeddings` must be (N, D); found {shape}")
    need(stored in ("F32", "F16", "I8"), f"`embeddings` must be F32, F16 or I8; found {stored}")
    extra = names - {"embeddings", "label_ends", "labels"} - ({"scales"} if stored == "I8" else set())
    need(not extra, f"unknown tensors: {sorted(extra)}")
    tensors = {name: file.get_tensor(name) for name in names - {"embeddings"}}
    ends = tensors["label_ends"]
    need(ends.dtype == np.int64 and ends.shape == shape[:1], "`label_ends` must be int64 (N)")
    last = tensors.get("labels", np.empty(0)).size
    need(bool((np.diff(ends, prepend=0) >= 0).all()) and int(ends[-1]) == last, "a label ends where it cannot")
    if stored == "I8":
        scales = tensors["scales"]
        need(scales.dtype == np.float32 and scales.shape == shape[:1], "`scales` must be float32 (N)")
        need(bool(np.isfinite(scales).all()), "a scale is not finite")
    return tensors
