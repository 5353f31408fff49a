"""What every data set is, whatever its files: an index of pictures with captions, read one sample at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_edge.console import Console
from clip_edge.errors import DataError
from clip_edge.files import parse_json

MAX_IMAGE_BYTES = 256 * 1024 * 1024
MAX_TEXT_BYTES = 1024 * 1024
UNKNOWN_LANGUAGE = ""
PARTS = ("image", "text", "meta", "mask")
LIMITS = {"image": MAX_IMAGE_BYTES, "mask": MAX_IMAGE_BYTES, "text": MAX_TEXT_BYTES, "meta": 16 * MAX_TEXT_BYTES}

Index = np.ndarray[tuple[int, int, int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Problem:
    """Something wrong in a data set: which sample, in which file, and what. `kind` is a short stable word."""

    kind: str
    key: str
    where: str
    reason: str


@dataclass(frozen=True)
class ClassInfo:
    """A class that pictures may show: its names by language, and whether training sees it ("seen" or "unseen")."""

    id: str
    names: dict[str, str]
    split: str = "seen"


@dataclass(frozen=True)
class Shard:
    """A line of dataset.json."""

    path: str
    samples: int
    sha256: str
    bytes: int


@dataclass(frozen=True)
class SplitInfo:
    shards: tuple[Shard, ...]
    samples: int


@dataclass(frozen=True)
class Licence:
    name: str
    attribution: str
    url: str


@dataclass(frozen=True)
class DatasetInfo:
    """dataset.json of a data set that clip-edge wrote."""

    schema: int
    name: str
    created_by: str
    seed: int
    size: int
    langs: tuple[str, ...]
    splits: dict[str, SplitInfo]
    classes: str
    licence: Licence
    objects: tuple[int, int] = (1, 4)

    def __post_init__(self) -> None:
        if self.schema != 1:
            raise ValueError(f"`schema` must be 1; found {self.schema}: the folder was written by a newer clip-edge")


@dataclass(frozen=True)
class Sample:
    """One picture with what is said about it. `image` and `mask` are encoded files.

    `captions` maps a language ("" when unknown) to its captions; `label` is the class id when the picture
    shows exactly one class, `classes` are all that it shows, `objects` the class of each object, in the order in which
    the mask numbers them.
    """

    key: str
    image: bytes
    captions: dict[str, tuple[str, ...]]
    label: str | None = None
    classes: tuple[str, ...] = ()
    mask: bytes | None = None
    objects: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class DataSet:
    """An index over files: cheap to pickle, safe to read from many threads and processes.

    `index` is (N, 4, 3): for each part in PARTS the number of a file in `files`, an offset and a length;
    file -1 means that the part is missing, length -1 the whole file. `texts` holds captions that the index
    knows already (CSV and class folders); otherwise they are read with the sample.
    """

    name: str
    split: str
    langs: tuple[str, ...]
    files: tuple[str, ...]
    keys: tuple[str, ...]
    index: Index
    texts: tuple[tuple[str, ...], ...] = ()
    labels: tuple[str, ...] = ()
    classes: Sequence[ClassInfo] = ()
    problems: tuple[Problem, ...] = ()
    info: DatasetInfo | None = None  # of a folder that clip-edge wrote

    def __len__(self) -> int:
        return len(self.keys)

    def where(self, i: int) -> str:
        """The file that holds sample `i`."""
        return self.files[int(self.index[i, 0, 0])]

    def shard_of(self, i: int) -> int:
        """The tar that holds sample `i`; 0 for every sample of a data set that has no tars."""
        return 0 if self.texts else int(self.index[i, 0, 0])

    def shard_of_all(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """(N,) `shard_of` for every sample."""
        return np.zeros(len(self), dtype=np.int64) if self.texts else self.index[:, 0, 0]

    def sample(self, i: int) -> Sample:
        """Sample `i`.

        Raises:
            DataError: its files are missing, too large, or hold no usable caption. The picture is not decoded.
        """
        if not 0 <= i < len(self):
            raise IndexError(i)
        image = self._read(i, "image")
        if not image:
            raise DataError("the picture is empty (0 bytes)", where=f"{self.where(i)}: {self.keys[i]}")
        objects: tuple[str | None, ...]
        if self.texts:
            captions, objects = {UNKNOWN_LANGUAGE: self.texts[i]}, tuple(filter(None, (self.labels[i],)))
        else:
            captions, objects = self._captions(i)
        shown = tuple(dict.fromkeys(one for one in objects if one is not None))
        label = shown[0] if len(shown) == 1 else None
        return Sample(self.keys[i], image, captions, label, shown, self._read(i, "mask"), objects)

    def _captions(self, i: int) -> tuple[dict[str, tuple[str, ...]], tuple[str | None, ...]]:
        """The captions by language and the class of each object, from the text and JSON members."""
        where = f"{self.where(i)}: {self.keys[i]}"
        meta, text = self._read(i, "meta"), self._read(i, "text")
        table = parse_json(meta, where=where, error=DataError) if meta is not None else {}
        captions, objects = read_meta(table, where)
        if not captions and text is not None:
            try:
                captions = {UNKNOWN_LANGUAGE: (" ".join(text.decode().split()),)}
            except UnicodeDecodeError as problem:
                raise DataError("the caption is not UTF-8", where=where) from problem
        captions = {lang: kept for lang, texts in captions.items() if (kept := tuple(filter(None, texts)))}
        if not captions:
            raise DataError("the caption is empty", where=where)
        return captions, objects

    def _read(self, i: int, part: str) -> bytes | None:
        number, offset, length = (int(value) for value in self.index[i, PARTS.index(part)])
        if number < 0:
            return None
        path, limit = self.files[number], LIMITS[part]
        try:
            with Path(path).open("rb") as file:
                file.seek(offset)
                data = file.read(limit + 1 if length < 0 else min(length, limit + 1))
        except OSError as problem:
            raise DataError(f"cannot read: {problem.strerror}", where=path) from problem
        if len(data) > limit:
            raise DataError(f"larger than {limit} bytes", where=f"{path}: {self.keys[i]}")
        if len(data) < length:
            raise DataError("the file ends too early: it changed while it was used", where=path)
        return data


def read_meta(table: object, where: str) -> tuple[dict[str, tuple[str, ...]], tuple[str | None, ...]]:
    """Captions by language and the class of each object from a JSON member: ours, or img2dataset's with its `caption`.

    An object whose class is not said is None.

    Raises:
        DataError: `captions`, `caption` or `objects` have another shape.
    """
    if not isinstance(table, dict):
        raise DataError("the JSON member is no object", where=where)
    captions = table.get("captions")
    if captions is None:
        caption = table.get("caption")
        captions = {UNKNOWN_LANGUAGE: [caption]} if isinstance(caption, str) else {}
    well_formed = isinstance(captions, dict) and all(
        isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in captions.values()
    )
    if not well_formed:
        raise DataError("`captions` must map languages to lists of strings", where=where)
    objects = table.get("objects", [])
    if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
        return _clean(captions), ()  # another tool's field of the same name
    return _clean(captions), tuple(one["id"] if isinstance(one.get("id"), str) else None for one in objects)


def _clean(captions: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {lang: tuple(" ".join(text.split()) for text in texts) for lang, texts in captions.items()}


def warn_of_problems(dataset: DataSet, console: Console) -> None:
    """Warn about what indexing found: entries without a picture or a caption, cut files, keys given twice."""
    if dataset.problems:
        first, count = dataset.problems[0], len(dataset.problems)
        found = "1 problem" if count == 1 else f"{count} problems"
        console.warn(
            f"{found} in {dataset.name}/{dataset.split}; the first is in {first.where}: {first.key}: {first.reason}; "
            "`clip-edge data check` names them all"
        )
