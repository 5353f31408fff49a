"""What is known about the pictures of one shard, in a memory-mapped file beside it.

Tensors of a sidecar, for N pictures, A augmentations of O operations, C captions and teacher k of dimension D_k:

    keys, keys.ends           UTF-8, (N,)     the keys in the order of the rows
    position                  (N,) int32      the place of each row's sample in its shard
    image_sha256, image_size  (N, 32), (N, 2) of the encoded file; decoded width and height
    box, flip                 (N, A, 4) int32, (N, A)
    ops, magnitudes           (N, A, O) uint8, (N, A, O) float32
    captions.ends             (N,) int64      row i has the captions ends[i - 1] .. ends[i]
    language, synthetic       (C,) uint8      place in the manifest's languages; 1 when a captioner made it
    text_sha256               (C, 8)          the first bytes of the hash of the caption
    texts, texts.ends         UTF-8, (C,)     synthetic captions; true ones stay in the user's shard
    image.k, text.k           (N, A, D_k), (C, D_k) bf16 or int8; int8 with image.k.scale (N, A), text.k.scale (C,)
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clip_edge.distill.reinforce.augment import OPS, Params
from clip_edge.errors import ArtifactError
from clip_edge.files import parse_json, write_file
from clip_edge.schema import as_dict, build

Dtype = Literal["bf16", "int8"]
SUFFIX = ".reinforce.safetensors"
REMAKE = "delete this file and run `clip-edge reinforce` again: it makes what is missing"
TEXT_HASH_BYTES = 8
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """What every sidecar of one folder has in common."""

    augmentations: int
    ops: int
    dims: tuple[int, ...]
    dtype: Dtype
    languages: tuple[str, ...]


@dataclass(frozen=True)
class Skipped:
    """A picture that cannot be read: it has no row, and stays out of training."""

    key: str
    shard: str
    reason: str


@dataclass(frozen=True)
class Header:
    """The words of a sidecar. `job` is the hash of everything that decides its bytes; `samples` counts the shard's."""

    schema: int
    job: str
    shard: str
    samples: int
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        if self.schema != 1:
            raise ValueError(f"`schema` must be 1; found {self.schema}: a newer clip-edge wrote this file")


@dataclass(frozen=True)
class Caption:
    """A caption of a picture: `number` is its row in the sidecar's text embeddings."""

    text: str
    language: str
    synthetic: bool
    number: int


@dataclass(frozen=True)
class Row:
    """One picture before it is stored. `captions` have no numbers yet: they get them in this order."""

    key: str
    position: int
    image_sha256: bytes
    size: tuple[int, int]  # width, height
    params: tuple[Params, ...]
    captions: tuple[Caption, ...]


def encode_rows(name: str, rows: Tensor, dtype: Dtype) -> Tensors:
    """(..., D) unit vectors as stored tensors.

    An int8 row is scaled to use all of -127..127; its scale makes the stored row a unit vector again, so that
    rounding changes the direction only.
    """
    if dtype == "bf16":
        return {name: rows.to(torch.bfloat16).contiguous()}
    steps = (rows * (127 / rows.abs().amax(-1, keepdim=True).clamp_min(1e-12))).round()
    scale = 1 / steps.norm(dim=-1).clamp_min(1)
    return {name: steps.to(torch.int8).contiguous(), f"{name}.scale": scale.float().contiguous()}


def pack(rows: Sequence[Row], shape: Shape) -> Tensors:
    """Everything about the pictures but their embeddings."""
    captions = [caption for row in rows for caption in row.captions]
    per_augmentation = (len(rows), shape.augmentations)
    params = [one for row in rows for one in row.params]
    numbers = {
        "position": np.array([row.position for row in rows], np.int32),
        "image_sha256": np.frombuffer(b"".join(row.image_sha256 for row in rows), np.uint8).reshape(-1, 32),
        "image_size": np.array([row.size for row in rows], np.int32).reshape(-1, 2),
        "box": np.array([one.box for one in params], np.int32).reshape(*per_augmentation, 4),
        "flip": np.array([one.flip for one in params], np.uint8).reshape(per_augmentation),
        "ops": np.array([one.ops for one in params], np.uint8).reshape(*per_augmentation, shape.ops),
        "magnitudes": np.array([one.magnitudes for one in params], np.float32).reshape(*per_augmentation, shape.ops),
        "captions.ends": np.cumsum([len(row.captions) for row in rows], dtype=np.int64),
        "language": np.array([shape.languages.index(caption.language) for caption in captions], np.uint8),
        "synthetic": np.array([caption.synthetic for caption in captions], np.uint8),
        "text_sha256": np.frombuffer(b"".join(text_hash(caption.text) for caption in captions), np.uint8).reshape(
            -1, TEXT_HASH_BYTES
        ),
        **_strings("keys", [row.key for row in rows]),
        **_strings("texts", [caption.text if caption.synthetic else "" for caption in captions]),
    }
    return {name: torch.from_numpy(values.copy()) for name, values in numbers.items()}


def text_hash(text: str) -> bytes:
    """What proves that a caption is still the one whose embedding is stored."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:TEXT_HASH_BYTES]


def _strings(name: str, texts: Sequence[str]) -> dict[str, Any]:
    encoded = [text.encode("utf-8", "replace") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {name: np.frombuffer(b"".join(encoded), np.uint8), f"{name}.ends": ends}


def merge(parts: Sequence[Tensors]) -> Tensors:
    """Consecutive pieces of one shard as one: rows are joined, running ends continue."""
    merged: Tensors = {}
    for name in parts[0]:
        pieces, base = [], 0
        for part in parts:
            piece = part[name]
            if name.endswith(".ends"):
                piece = piece + base
                base = int(piece[-1]) if len(piece) else base
            pieces.append(piece)
        merged[name] = torch.cat(pieces)
    return merged


def write_sidecar(path: Path, tensors: Tensors, header: Header) -> None:
    """Write a sidecar in one step; equal content gives equal bytes."""
    words = json.dumps(as_dict(header), ensure_ascii=False)  # one entry: safetensors does not keep the order of several
    write_file(path, save(tensors, metadata={"clip_edge": words}))


def read_tensors(path: Path) -> tuple[Tensors, Header]:
    """A sidecar's tensors, mapped and not yet read, and its header.

    Raises:
        ArtifactError: missing, damaged, or no sidecar.
    """
    try:
        with safe_open(path, framework="pt") as file:
            words = (file.metadata() or {}).get("clip_edge")
            names: list[str] = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as problem:
        raise ArtifactError(
            f"missing file: {path.name}", where=path, hint="run `clip-edge reinforce` again: it makes what is missing"
        ) from problem
    except (SafetensorError, OSError, ValueError) as problem:
        raise ArtifactError(f"the sidecar is damaged: {problem}", where=path, hint=REMAKE) from problem
    if words is None:
        raise ArtifactError("not a sidecar: its header is missing", where=path, hint=REMAKE)
    return tensors, build(Header, parse_json(words.encode(), where=path), where=path, error=ArtifactError, hint=REMAKE)


class Sidecar:
    """One memory-mapped sidecar. Reading a row touches a few kilobytes; processes share the pages.

    Raises:
        ArtifactError: the file is missing, damaged, or of another shape.
    """

    def __init__(self, path: Path, shape: Shape) -> None:
        self.path, self.shape = path, shape
        self.tensors, self.header = read_tensors(path)
        self._check()
        self._arrays = {name: _as_numpy(value) for name, value in self.tensors.items()}
        self._ends = {name: self._arrays[name] for name in self._arrays if name.endswith(".ends")}

    def __reduce__(self) -> tuple[object, ...]:  # worker processes map the file themselves
        return Sidecar, (self.path, self.shape)

    def __len__(self) -> int:
        return len(self._arrays["position"])

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys of the rows."""
        return tuple(self._string("keys", i) for i in range(len(self)))

    @property
    def positions(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """(N,) the place of each row's sample in its shard."""
        return self._arrays["position"]

    def params(self, row: int, augmentation: int) -> Params:
        """The augmentation whose pixels `image_embeds(row, augmentation)` describes."""
        place = (row, augmentation)
        box, ops = self._arrays["box"][place].tolist(), self._arrays["ops"][place].tolist()
        if max(ops, default=0) >= len(OPS):
            raise self._damaged(f"operation {max(ops)} of row {row} is unknown")
        magnitudes = self._arrays["magnitudes"][place].tolist()
        return Params(tuple(box), bool(self._arrays["flip"][place]), tuple(ops), tuple(magnitudes))

    def picture(self, row: int) -> tuple[bytes, tuple[int, int]]:
        """SHA-256 of the encoded picture, and its decoded width and height."""
        width, height = self._arrays["image_size"][row].tolist()
        return self._arrays["image_sha256"][row].tobytes(), (width, height)

    def captions(self, row: int) -> tuple[Caption, ...]:
        """The captions of a row; the text of a true caption is empty, it stands in the user's shard."""
        return tuple(
            Caption(
                self._string("texts", c),
                self.shape.languages[int(self._arrays["language"][c])],
                bool(self._arrays["synthetic"][c]),
                c,
            )
            for c in self._span("captions", row)
        )

    def text_hash(self, number: int) -> bytes:
        """The first bytes of the SHA-256 of caption `number`."""
        proof: bytes = self._arrays["text_sha256"][number].tobytes()
        return proof

    def image_embeds(self, row: int, augmentation: int) -> tuple[Tensor, ...]:
        """Each teacher's unit vector (D_k,) of one augmented picture, fp32."""
        return self._vectors("image", (row, augmentation))

    def text_embeds(self, number: int) -> tuple[Tensor, ...]:
        """Each teacher's unit vector (D_k,) of caption `number`, fp32."""
        return self._vectors("text", (number,))

    def _vectors(self, kind: str, place: tuple[int, ...]) -> tuple[Tensor, ...]:
        # NumPy: training does this for every sample, and small operations cost it a fraction of torch's time
        found = []
        for k in range(len(self.shape.dims)):
            name = f"{kind}.{k}"
            stored = self._arrays[name][place]
            if self.shape.dtype == "int8":
                vector = stored.astype(np.float32) * self._arrays[f"{name}.scale"][place]
            else:  # rounding changed the length by up to 0.2 %: at a logit scale of 100 that is 0.2 in a logit
                vector = (stored.astype(np.uint32) << 16).view(np.float32)
                vector /= max(math.sqrt(vector @ vector), 1e-12)
            found.append(torch.from_numpy(vector))
        return tuple(found)

    def _span(self, name: str, i: int) -> range:
        ends = self._ends[f"{name}.ends"]
        return range(int(ends[i - 1]) if i else 0, int(ends[i]))

    def _string(self, name: str, i: int) -> str:
        span = self._span(name, i)
        return self._arrays[name][span.start : span.stop].tobytes().decode("utf-8", "replace")

    def _damaged(self, reason: str) -> ArtifactError:
        return ArtifactError(f"the sidecar is damaged: {reason}", where=self.path, hint=REMAKE)

    def _check(self) -> None:
        """Every tensor is there with the right type and shape, and every running end lies in its range."""
        count = len(self.tensors["position"]) if "position" in self.tensors else 0
        captions = len(self.tensors["synthetic"]) if "synthetic" in self.tensors else 0
        expected = _expected(self.shape, count, captions)
        if missing := sorted(set(expected) ^ set(self.tensors)):
            raise self._damaged(f"expected the tensors of {len(self.shape.dims)} teachers; `{missing[0]}` differs")
        for name, (dtype, shape) in expected.items():
            found = self.tensors[name]
            if found.dtype != dtype or (shape is not None and tuple(found.shape) != shape) or found.ndim < 1:
                raise self._damaged(
                    f"`{name}` should be {dtype} {shape or '(any)'}; found {found.dtype} {tuple(found.shape)}"
                )
        for name, limit in (("keys", len(self.tensors["keys"])), ("texts", len(self.tensors["texts"]))):
            self._check_ends(name, limit)
        self._check_ends("captions", captions)
        if captions and int(self.tensors["language"].max()) >= len(self.shape.languages):
            raise self._damaged("a caption is of a language that the manifest does not name")

    def _check_ends(self, name: str, limit: int) -> None:
        ends = self.tensors[f"{name}.ends"].numpy()
        last = int(ends[-1]) if len(ends) else 0
        if last != limit or (len(ends) and (int(ends[0]) < 0 or bool((np.diff(ends) < 0).any()))):
            raise self._damaged(f"`{name}.ends` does not end at {limit}")


def _as_numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    """A view of a mapped tensor; bf16, which NumPy lacks, as its 16 bits."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _expected(shape: Shape, count: int, captions: int) -> dict[str, tuple[torch.dtype, tuple[int, ...] | None]]:
    """Type and shape of every tensor of a sidecar with `count` rows; None for byte strings of any length."""
    u8, i32, i64, f32 = torch.uint8, torch.int32, torch.int64, torch.float32
    per_augmentation = (count, shape.augmentations)
    found: dict[str, tuple[torch.dtype, tuple[int, ...] | None]] = {
        "keys": (u8, None),
        "keys.ends": (i64, (count,)),
        "position": (i32, (count,)),
        "image_sha256": (u8, (count, 32)),
        "image_size": (i32, (count, 2)),
        "box": (i32, (*per_augmentation, 4)),
        "flip": (u8, per_augmentation),
        "ops": (u8, (*per_augmentation, shape.ops)),
        "magnitudes": (f32, (*per_augmentation, shape.ops)),
        "captions.ends": (i64, (count,)),
        "language": (u8, (captions,)),
        "synthetic": (u8, (captions,)),
        "text_sha256": (u8, (captions, TEXT_HASH_BYTES)),
        "texts": (u8, None),
        "texts.ends": (i64, (captions,)),
    }
    for k, dim in enumerate(shape.dims):
        for name, rows in ((f"image.{k}", per_augmentation), (f"text.{k}", (captions,))):
            found[name] = (torch.bfloat16 if shape.dtype == "bf16" else torch.int8, (*rows, dim))
            if shape.dtype == "int8":
                found[f"{name}.scale"] = (f32, rows)
    return found
