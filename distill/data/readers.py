"""Any data set that people have, as one `DataSet`: the built-in folder, WebDataset tars, CSV/TSV, class folders."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from clip_edge.distill.data.samples import (
    LIMITS,
    PARTS,
    UNKNOWN_LANGUAGE,
    ClassInfo,
    DataSet,
    DatasetInfo,
    Index,
    Problem,
)
from clip_edge.distill.data.tars import Member, TarError, scan_tar
from clip_edge.errors import DataError, unknown_name
from clip_edge.files import inside, read_json
from clip_edge.schema import build

IMAGE_TYPES = ("jpg", "jpeg", "png", "webp")
PART_OF = {**dict.fromkeys(IMAGE_TYPES, "image"), "txt": "text", "json": "meta", "mask.png": "mask"}
SPLIT_NAMES = ("train", "val", "test", "unseen")
TABLES = {".csv": ",", ".tsv": "\t"}
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
COLUMNS = (("filepath", "title"), ("filepath", "caption"), ("image", "caption"), ("image_path", "text"))
WAYS = "a folder of tar shards, a .csv or .tsv file, or one folder per class"


@dataclass
class _Found:
    """An index under construction."""

    files: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    rows: list[tuple[tuple[int, int, int], ...]] = field(default_factory=list)
    texts: list[tuple[str, ...]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    known: set[str] = field(default_factory=set)  # the keys again, to look them up

    def problem(self, kind: str, key: str, where: str | Path, reason: str) -> None:
        self.problems.append(Problem(kind, key, str(where), reason))

    def add_file(self, path: Path) -> int:
        self.files.append(str(path))
        return len(self.files) - 1

    def add_picture(self, path: Path, key: str, texts: tuple[str, ...], label: str) -> None:
        """A picture that is a file of its own."""
        missing = (-1, 0, 0)
        self.keys.append(key)
        self.rows.append(((self.add_file(path), 0, -1), missing, missing, missing))
        self.texts.append(texts)
        self.labels.append(label)

    def dataset(self, name: str, split: str, langs: tuple[str, ...], **more: Any) -> DataSet:
        """The finished index; `more` are the fields of `DataSet` that only some formats have."""
        index: Index = np.array(self.rows, dtype=np.int64).reshape(-1, len(PARTS), 3)
        return DataSet(
            name,
            split,
            langs,
            files=tuple(self.files),
            keys=tuple(self.keys),
            index=index,
            texts=tuple(self.texts),
            labels=tuple(self.labels),
            problems=tuple(self.problems),
            **more,
        )


def open_dataset(
    path: Path, split: str = "train", *, columns: tuple[str, str] | None = None, allow_empty: bool = False
) -> DataSet:
    """The samples of one split of the data set at `path`.

    `columns` names the picture and caption columns of a CSV or TSV file (default: open_clip's `filepath` and `title`,
    or another common pair). Samples that can never be used (no picture, no caption, 0 bytes) are not in the set;
    they are named in `problems`.

    Raises:
        DataError: nothing at `path`, no data set in it, no such split, or no usable sample.
    """
    with _reading(path):
        splits = _find_splits(path)
        if split not in splits:
            raise unknown_name("split", split, splits, error=DataError)
        source = splits[split]
        if (path / "dataset.json").is_file():
            dataset = _read_built_in(path, split)
        elif isinstance(source, list):
            dataset = _read_tars(source, path, split)
        elif source.suffix.lower() in TABLES and source.is_file():
            dataset = _read_table(source, split, columns)
        else:
            dataset = _read_classes(source, split)
    if not len(dataset) and not allow_empty:
        named = f": {dataset.problems[0].reason} ({dataset.problems[0].where})" if dataset.problems else ""
        raise DataError(f"the data set is empty: no usable sample in `{split}`{named}", where=path, hint=_CHECK)
    return dataset


_CHECK = "`clip-edge data check DIR` names every problem"


def data_splits(path: Path) -> tuple[str, ...]:
    """The splits of the data set at `path`.

    Raises:
        DataError: there is nothing at `path`, or nothing that looks like a data set.
    """
    with _reading(path):
        return tuple(_find_splits(path))


def _find_splits(path: Path) -> dict[str, Path | list[Path]]:
    """Split -> what holds it: a list of tars, a CSV or TSV file, or a folder of class folders."""
    if path.is_file():
        if path.name.lower().endswith(TARS):
            return {"train": [path]}
        if path.suffix.lower() in TABLES:
            return {"train": path}
        raise DataError(f"not a data set: `{path.name}`", where=path, hint=f"expected {WAYS}")
    if not path.is_dir():
        raise DataError(f"no such data set: {path}", hint="make one with `clip-edge data emoji --out DIR`")
    if (path / "dataset.json").is_file():
        return {split: [] for split in _read_info(path).splits}
    children = [child for child in sorted(path.iterdir()) if not child.name.startswith(".")]
    tables = {child.stem: child for child in children if child.suffix.lower() in TABLES and child.stem in SPLIT_NAMES}
    folders = {child.name: child for child in children if child.is_dir()}
    named = {name: folders[name] for name in SPLIT_NAMES if name in folders and _holds_samples(folders[name])}
    found: dict[str, Path | list[Path]] = {}
    if tars := _tars(path):
        found = {"train": tars}
    elif tables:
        found = dict(tables)
    elif named:
        found = {name: _tars(folder) or folder for name, folder in named.items()}
    elif folders:
        found = {"train": path}
    if not found:
        raise DataError("the data set is empty: no samples found", where=path, hint=f"expected {WAYS}")
    return found


def _tars(folder: Path) -> list[Path]:
    """The shards in a folder; compressed ones too, so that they are named as a problem."""
    return sorted(child for child in folder.iterdir() if child.name.lower().endswith(TARS) and child.is_file())


def _holds_samples(folder: Path) -> bool:
    """Tells a split from a class of that name, such as pictures of trains."""
    return bool(_tars(folder)) or any(child.is_dir() for child in folder.iterdir())


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise DataError(f"cannot read the data set: {problem.strerror}", where=problem.filename or path) from problem


def _read_info(path: Path) -> DatasetInfo:
    file = path / "dataset.json"
    return build(DatasetInfo, read_json(file, error=DataError), where=file, error=DataError)


def _read_built_in(path: Path, split: str) -> DataSet:
    info = _read_info(path)
    classes_file = inside(path, info.classes, error=DataError)
    classes = build(
        _Classes, {"classes": read_json(classes_file, error=DataError)}, where=classes_file, error=DataError
    )
    found = _Found()
    for shard in info.splits[split].shards:
        tar = inside(path, shard.path, error=DataError)
        before = len(found.keys)
        _scan_shard(tar, found)
        if tar.is_file() and len(found.keys) - before != shard.samples:
            reason = f"{len(found.keys) - before} usable samples; dataset.json says {shard.samples}"
            found.problem("wrong count", "", tar, reason)
    return found.dataset(info.name, split, info.langs, classes=classes.classes, info=info)


@dataclass(frozen=True)
class _Classes:
    classes: tuple[ClassInfo, ...]


def _read_tars(tars: list[Path], path: Path, split: str) -> DataSet:
    found = _Found()
    for tar in tars:
        _scan_shard(tar, found)
    return found.dataset(path.stem, split, (UNKNOWN_LANGUAGE,))


def _scan_shard(tar: Path, found: _Found) -> None:
    """Add the samples of one tar: members that share a name up to its first dot."""
    number = found.add_file(tar)
    samples: dict[str, dict[str, Member]] = {}
    try:
        for member in scan_tar(tar):
            _sort_member(member, samples, tar, found)
    except TarError as problem:
        found.problem("damaged tar", "", tar, str(problem))
    except FileNotFoundError:
        found.problem("missing file", "", tar, "the shard is listed and does not exist")
    except OSError as problem:
        found.problem("unreadable file", "", tar, str(problem.strerror))
    for key, members in samples.items():
        if key in found.known:
            found.problem("duplicate key", key, tar, "the key also occurs in another shard; both samples are used")
        wrong = _unusable(members)
        if wrong:
            found.problem(*wrong[:1], key, tar, wrong[1])
            continue
        found.known.add(key)
        found.keys.append(key)
        parts = [members.get(part) for part in PARTS]
        found.rows.append(tuple((-1, 0, 0) if one is None else (number, one.offset, one.size) for one in parts))


def _sort_member(member: Member, samples: dict[str, dict[str, Member]], tar: Path, found: _Found) -> None:
    if member.kind == "folder":
        return
    pure = PurePosixPath(member.name)
    if member.kind == "other":
        found.problem("not a file", member.name, tar, "a link, device or sparse file inside a tar is not followed")
        return
    if pure.is_absolute() or ".." in pure.parts or "\\" in member.name:
        found.problem("unsafe name", member.name, tar, "the name leaves the tar; the member is not used")
        return
    stem, _, extension = pure.name.partition(".")
    part = PART_OF.get(extension.lower())
    if part is None or not stem:
        return  # other tools keep embeddings, URLs and the like beside a sample
    members = samples.setdefault(str(pure.parent / stem), {})
    if part in members:
        found.problem("duplicate key", str(pure.parent / stem), tar, f"a second .{extension}; the first one is used")
        return
    members[part] = member


def _unusable(members: Mapping[str, Member]) -> tuple[str, str] | None:
    """Kind and reason why a sample can never be used, as far as headers tell."""
    if "image" not in members:
        return "missing picture", f"no member ends with .{', .'.join(IMAGE_TYPES)}"
    if "text" not in members and "meta" not in members:
        return "missing caption", "no member ends with .txt or .json"
    if members["image"].size == 0:
        return "empty picture", "the picture has 0 bytes"
    for part, member in members.items():
        if member.size > LIMITS[part]:
            return "too large", f"{member.size} bytes; at most {LIMITS[part]} are read"
    return None


def _read_table(file: Path, split: str, columns: tuple[str, str] | None) -> DataSet:
    """A CSV or TSV file, one line per picture and caption; the lines of one picture become its captions."""
    found = _Found()
    captions: dict[str, list[str]] = {}
    for line, picture, caption in _table_rows(file, columns, found):
        if not picture:
            found.problem("missing picture", f"line {line}", file, "the picture column is empty")
        elif not caption:
            found.problem("missing caption", picture, file, f"line {line}: the caption column is empty")
        else:
            captions.setdefault(picture, []).append(caption)
    for picture, texts in captions.items():
        path = file.parent / picture  # an absolute path stays as it is, as in open_clip
        reason = None if "\0" not in picture and path.is_file() else "no such file"
        if reason is None and path.stat().st_size == 0:
            found.problem("empty picture", picture, path, "the picture has 0 bytes")
        elif reason:
            found.problem("missing file", picture, file, reason)
        else:
            found.add_picture(path, picture, tuple(dict.fromkeys(texts)), "")
    return found.dataset(file.stem, split, (UNKNOWN_LANGUAGE,))


def _table_rows(file: Path, columns: tuple[str, str] | None, found: _Found) -> Iterator[tuple[int, str, str]]:
    """(line number, picture, caption) of every line that can be read."""
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=TABLES[file.suffix.lower()], strict=True)
        try:
            picture, caption = _pick_columns(file, reader.fieldnames or [], columns)
            for row in reader:
                values = [" ".join((row[name] or "").split()) for name in (picture, caption)]
                if any(map(_not_utf8, values)):
                    found.problem("not UTF-8", f"line {reader.line_num}", file, "the line is not UTF-8")
                    continue
                yield reader.line_num, (row[picture] or "").strip(), values[1]
        except csv.Error as problem:
            found.problem("damaged table", f"line {reader.line_num}", file, f"{problem}; reading stops here")


def _not_utf8(text: str) -> bool:
    return any("\udc80" <= char <= "\udcff" for char in text)


def _pick_columns(file: Path, names: Any, columns: tuple[str, str] | None) -> tuple[str, str]:
    for pair in (columns,) if columns else COLUMNS:
        if all(name in names for name in pair):
            return pair
    wanted = " and ".join(columns or COLUMNS[0])
    raise DataError(f"no columns {wanted}; found {', '.join(names) or 'none'}", where=file)


def _read_classes(folder: Path, split: str) -> DataSet:
    """One folder per class, pictures inside; the folder's name is the caption."""
    found = _Found()
    classes = []
    for child in sorted(folder.iterdir()):
        if child.name.startswith("."):
            continue
        if not child.is_dir():
            if child.suffix.lower().removeprefix(".") in IMAGE_TYPES:
                found.problem("no class", child.name, child, "the picture lies beside the class folders, not in one")
            continue
        name = child.name.replace("_", " ")
        classes.append(ClassInfo(child.name, {UNKNOWN_LANGUAGE: name}))
        for file in sorted(child.rglob("*")):
            relative = file.relative_to(folder).as_posix()
            if file.is_dir() or file.name.startswith("."):
                continue
            if file.suffix.lower().removeprefix(".") not in IMAGE_TYPES:
                found.problem("not a picture", relative, file, f"its name does not end with .{', .'.join(IMAGE_TYPES)}")
            elif not file.is_file():
                found.problem("missing file", relative, file, "a link to nothing, or no ordinary file")
            elif file.stat().st_size == 0:
                found.problem("empty picture", relative, file, "the picture has 0 bytes")
            else:
                found.add_picture(file, relative, (name,), child.name)
    return found.dataset(folder.name, split, (UNKNOWN_LANGUAGE,), classes=tuple(classes))
