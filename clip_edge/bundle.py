"""The bundle: a folder that holds an exported model, and the manifest that says what it is.

Everything in the folder is listed in manifest.json with its size and SHA-256, and the manifest holds its own hash,
so one changed byte anywhere is found. A bundle may come from anywhere: nothing in it is trusted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from clip_edge.errors import BundleError, ConfigError, UsageError, unknown_name
from clip_edge.files import inside, json_bytes, parse_json, read_bounded, sha256_bytes, sha256_file
from clip_edge.graphs import Graph, GraphName
from clip_edge.graphs import Parity as Parity
from clip_edge.graphs import Precision as Precision
from clip_edge.preprocess import PreprocessSpec
from clip_edge.schema import as_dict, build
from clip_edge.tokenizer import TextSpec

SCHEMA = 1
MANIFEST = "manifest.json"
GOLDEN = "golden.safetensors"
TOKENIZER = "tokenizer.json"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_FILES = 10_000
MAX_DEPTH = 16  # of free-form tables: what writes them back recurses
EXPORT_AGAIN = "copy the bundle again from where it was made, or export it again"
_NO_HASH = "0" * 64

Tower = Literal["image", "text"]
TOWERS: tuple[Tower, Tower] = ("image", "text")


@dataclass(frozen=True)
class FileEntry:
    """The size and hash of one file of the bundle."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"`sha256` must be 64 hexadecimal digits; found `{self.sha256[:80]}`")
        if self.bytes < 0:
            raise ValueError(f"`bytes` must not be negative; found {self.bytes}")


@dataclass(frozen=True)
class Embedding:
    """What leaves the graphs. `space` names the vector space: vectors of two different spaces must never be compared.

    A probability is the softmax of `logit_scale` * cosine + `logit_bias`; `logit_bias` is null for models trained
    with a softmax, and belongs into a sigmoid for the others.
    """

    space: str
    dim: int
    normalized: bool
    logit_scale: float
    logit_bias: float | None

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= 65536:
            raise ValueError(f"`dim` must lie in 1..65536; found {self.dim}")
        if not 0 < self.logit_scale <= 1e6:
            raise ValueError(f"`logit_scale` must lie in 0..1e6; found {self.logit_scale}")


@dataclass(frozen=True)
class ImageInput:
    """From an upright RGB picture to `pixel_values`: what silently breaks a deployment when it is lost."""

    preprocess: PreprocessSpec
    crop: Literal["center", "none"]
    channel_order: Literal["RGB"] = "RGB"
    layout: Literal["NCHW"] = "NCHW"
    pixel_scale: float = 1 / 255  # applied before mean and std
    antialias: Literal[True] = True  # the filter widens with the scale, as Pillow's does


@dataclass(frozen=True)
class TextInput:
    """From a sentence to `input_ids`, and what the tower does with the row."""

    tokenizer: TextSpec
    causal: bool
    pad_mask: bool  # False: padding takes part in attention, so the pad id and the full length matter
    pooling: Literal["eos", "mean", "first", "last"]
    activation: str


@dataclass(frozen=True)
class Artifact:
    """One tower in one precision for one target. `path` is a file, or a folder whose files are all listed."""

    tower: Tower
    target: str
    precision: Precision
    path: str
    input: str
    input_dtype: Literal["float32", "uint8", "int64", "int32"]  # uint8: pixels 0..255, normalised by the graph
    output: str
    batch: int | None  # null: any batch
    opset: int
    parameters: int
    verification: Parity | None
    quantization: str | None = None  # path of the report on each layer's precision


@dataclass(frozen=True)
class Licence:
    """The licence of one thing that went into the weights."""

    applies_to: str
    name: str
    research_only: bool


@dataclass(frozen=True)
class Source:
    """What was exported."""

    name: str
    weights_sha256: str
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        if _depth(self.provenance) > MAX_DEPTH:
            raise ValueError(f"`provenance` is nested more than {MAX_DEPTH} deep")


@dataclass(frozen=True)
class Manifest:
    """manifest.json. `manifest_sha256` is the hash of the file with its own 64 digits written as zeros."""

    schema: int
    name: str
    created_by: str
    embedding: Embedding
    image: ImageInput
    text: TextInput
    artifacts: tuple[Artifact, ...]
    licences: tuple[Licence, ...]
    research_only: bool
    source: Source
    versions: dict[str, str]
    files: dict[str, FileEntry]
    manifest_sha256: str = field(default=_NO_HASH)
    graphs: tuple[Graph, ...] = ()  # beside the towers: the parts that segmentation runs one by one

    def __post_init__(self) -> None:
        if len(self.files) > MAX_FILES:
            raise ValueError(f"at most {MAX_FILES} files; found {len(self.files)}")
        for key, items in (("artifacts", self.artifacts), ("graphs", self.graphs)):
            for path in (path for item in items for path in (item.path, item.quantization)):
                if path is not None and not self.listed(path):
                    raise ValueError(f"`{key}` names a file that is not listed: `{path}`")

    def listed(self, path: str) -> list[str]:
        """The listed files that make up an artefact: `path` itself, or everything below the folder `path`."""
        return [name for name in self.files if name == path or name.startswith(f"{path}/")]

    def size_bytes(self, path: str) -> int:
        """The size of an artefact, a file or a folder."""
        return sum(self.files[name].bytes for name in self.listed(path))

    def to_bytes(self) -> bytes:
        """The file, with its own hash in it."""
        plain = json_bytes(as_dict(replace(self, manifest_sha256=_NO_HASH)))
        return plain.replace(_NO_HASH.encode(), sha256_bytes(plain).encode())

    def fitting(self, tower: Tower, targets: Sequence[str]) -> dict[str, Artifact]:
        """The artefacts of one tower by precision, for the first of `targets` that the bundle has.

        Raises:
            BundleError: the bundle has none for any of them.
        """
        for target in targets:
            found: dict[str, Artifact] = {
                item.precision: item for item in self.artifacts if (item.tower, item.target) == (tower, target)
            }
            if found:
                return found
        raise BundleError(
            f"the bundle has no {tower} tower for target `{targets[0]}`",
            hint=f"export it again with --target {targets[0]}",
        )

    def artifact(self, tower: Tower, targets: Sequence[str], precision: str | None = None) -> Artifact:
        """The artefact of one tower; without a precision, the first that the manifest lists.

        Raises:
            BundleError: the bundle has none for these targets.
            ConfigError: the precision is not in the bundle (the nearest is named).
        """
        fitting = self.fitting(tower, targets)
        if precision is None:
            return next(iter(fitting.values()))
        if precision not in fitting:
            raise unknown_name("precision", precision, fitting, error=ConfigError)
        return fitting[precision]

    def graph(self, name: GraphName, targets: Sequence[str], precision: str | None = None) -> Graph:
        """The graph of that name in `precision`, or in the first that the manifest lists: heads stay in fp32.

        Raises:
            BundleError: the bundle has none for these targets.
        """
        found = [item for item in self.graphs if item.graph == name and item.target in targets]
        if not found:
            raise BundleError(
                f"the bundle has no graph `{name}` for target `{targets[0]}`",
                hint="the student has no mask head: `clip-edge distill sam-clip` trains one that has"
                if self.graphs and name == "mask_decoder"
                else f"export it again with --target {targets[0]} --segment",
            )
        return next((item for item in found if item.precision == precision), found[0])


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest was read and whose list of files is complete.

    `trusted` bundles were checked before (`clip-edge verify`): `read` does not hash again.
    """

    folder: Path
    manifest: Manifest
    trusted: bool = False

    @classmethod
    def open(cls, path: Path, *, verify_hashes: bool = True, trusted: bool = False) -> Self:
        """Read the manifest and check the folder against it.

        With `verify_hashes=False` sizes and names are still checked, and `read` still checks what it reads,
        unless the bundle is `trusted`.

        Raises:
            UsageError: no folder there.
            BundleError: anything is missing, changed, added, linked or leaves the folder.
        """
        if not path.is_dir():
            raise UsageError(
                "no such bundle" if not path.exists() else "a bundle is a folder; this is a file",
                where=path,
                hint="`clip-edge export MODEL --target onnx --out BUNDLE` makes one",
            )
        bundle = cls(path, _read_manifest(path), trusted)
        bundle._check_folder()
        if verify_hashes:
            bundle.check_hashes()
        return bundle

    def check_hashes(self, names: Iterable[str] | None = None) -> None:
        """Compare the hash of each named file, or of all, with the manifest."""
        for name in self.manifest.files if names is None else names:
            found = sha256_file(inside(self.folder, name, error=BundleError))
            if found != self.manifest.files[name].sha256:
                raise self._changed(name, found)

    def read(self, name: str, max_bytes: int) -> bytes:
        """The bytes of a listed file, hashed unless the bundle is trusted: what was hashed is what is used."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"missing file: {name}", where=self.folder, hint=EXPORT_AGAIN)
        data = read_bounded(inside(self.folder, name, error=BundleError), max_bytes, error=BundleError)
        if not self.trusted and sha256_bytes(data) != entry.sha256:
            raise self._changed(name, sha256_bytes(data))
        return data

    def _changed(self, name: str, found: str) -> BundleError:
        expected = self.manifest.files[name].sha256
        return BundleError(
            f"{name} was changed: SHA-256 {expected[:12]}… expected, {found[:12]}… found",
            where=self.folder / name,
            hint=EXPORT_AGAIN,
        )

    def _check_folder(self) -> None:
        try:
            self._check_listed()
            self._check_unlisted()
        except OSError as problem:  # such as a name that is too long for the file system
            raise BundleError(
                f"cannot read the bundle: {problem.strerror}", where=self.folder, hint=EXPORT_AGAIN
            ) from problem

    def _check_listed(self) -> None:
        for name, entry in self.manifest.files.items():
            path = inside(self.folder, name, error=BundleError)
            if path.is_symlink() or not path.is_file():
                raise BundleError(f"missing file: {name}", where=path, hint=EXPORT_AGAIN)
            size = path.stat().st_size
            if size != entry.bytes:
                raise BundleError(
                    f"{name} was changed: {entry.bytes} bytes expected, {size} found", where=path, hint=EXPORT_AGAIN
                )

    def _check_unlisted(self) -> None:
        allowed = {MANIFEST, *self.manifest.files}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_symlink():
                raise BundleError(f"a link in the bundle: {name}", where=path, hint="replace it by the file it means")
            if not path.is_dir() and name not in allowed:
                raise BundleError(
                    f"a file that the manifest does not list: {name}", where=path, hint="move it out of the bundle"
                )


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Every file below `folder` except the manifest, sorted by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    names.pop(MANIFEST, None)
    return {name: FileEntry(sha256_file(path), path.stat().st_size) for name, path in names.items()}


def embedding_space(
    weights_sha256: str, architecture: object, image: PreprocessSpec, text: TextSpec, tokenizer: bytes
) -> str:
    """The id of the vector space: it changes when weights, architecture, preprocessing or tokenisation change.

    The logit scale is not part of it: it never touches the vectors.
    """
    parts = {
        "weights": weights_sha256,
        "architecture": architecture,
        "image": as_dict(image),
        "text": as_dict(text),
        "tokenizer": sha256_bytes(tokenizer),
    }
    return sha256_bytes(json_bytes(parts))[:32]


def _depth(value: object) -> int:
    """How deep tables and lists are nested, counted level by level."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
        ]
    return depth


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if path.is_symlink():
        raise BundleError(f"a link in the bundle: {MANIFEST}", where=path, hint="replace it by the file it means")
    data = read_bounded(path, MAX_MANIFEST_BYTES, error=BundleError, hint="this folder is no bundle, or is damaged")
    value = parse_json(data, where=path, error=BundleError)
    found = value.get("schema") if isinstance(value, dict) else None
    if found != SCHEMA:
        raise BundleError(
            f"manifest schema {SCHEMA} expected; found {found!r}",
            where=path,
            hint="read it with the clip-edge that made it, or export the model again",
        )
    manifest = build(Manifest, value, where=path, error=BundleError, hint=EXPORT_AGAIN)
    for name in manifest.files:
        inside(folder, name, error=BundleError)
    _check_own_hash(data, manifest.manifest_sha256, path)
    return manifest


def _check_own_hash(data: bytes, stated: str, path: Path) -> None:
    plain = data.replace(stated.encode("utf-8", "replace"), _NO_HASH.encode()) if len(stated) == 64 else b""
    if sha256_bytes(plain) != stated:
        raise BundleError(
            "manifest.json was changed: its hash differs from the one it states", where=path, hint=EXPORT_AGAIN
        )
