"""Files and folders that appear whole or not at all, and reading that trusts nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from clip_edge.errors import ArtifactError, ClipEdgeError, UnavailableError, UsageError

CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)
MAX_JSON_BYTES = 64 * 1024 * 1024  # the largest tokenizer.json in use is about 20 MB


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under `path` only when the block ends without an error.

    The block writes into a sibling folder, which is renamed at the end and removed on any failure.

    Raises:
        UsageError: `path` exists (an empty folder is taken as it is).
        UnavailableError: the disk is full.
    """
    refuse_existing(path)
    partial = path.absolute().with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with disk_errors(path):
            partial.mkdir(parents=True)
            yield partial
            if path.is_dir():
                path.rmdir()
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(path: Path) -> None:
    """Raise UsageError when `path` is a file or a folder with something in it."""
    if path.resolve() == Path.cwd():
        raise UsageError(f"the output folder is the one you are in: {path}", hint="name a new folder with --out")
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise UsageError(
            f"the output folder exists: {path}", hint="name another folder with --out, or remove this one first"
        )


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a full disk and a missing permission into an error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UnavailableError(
                "the disk is full: nothing was written",
                where=where,
                hint="free some space, or name a folder on another disk with --out",
            ) from error
        if error.errno in CANNOT_WRITE:
            raise UsageError(
                f"cannot write: {error.strerror}", where=error.filename or where, hint="name a folder you may write to"
            ) from error
        raise


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one step: readers see the old file or the new one, never half of it."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with disk_errors(path):
            partial.write_bytes(data)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def json_bytes(value: object) -> bytes:
    """`value` as JSON text: UTF-8, two spaces, keys in the order given, one newline at the end."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON to `path` in one step."""
    write_file(path, json_bytes(value))


def read_json(path: Path, *, error: type[ClipEdgeError] = ArtifactError, hint: str | None = None) -> Any:
    """The JSON value in `path`.

    Raises:
        error: the file is missing, larger than 64 MiB, or no JSON.
    """
    return parse_json(read_bounded(path, MAX_JSON_BYTES, error=error, hint=hint), where=path, error=error)


def parse_json(data: bytes, *, where: Path | str, error: type[ClipEdgeError] = ArtifactError) -> Any:
    """The JSON value in `data`; NaN, Infinity, repeated keys and halves of surrogate pairs are refused."""

    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key `{key}` is given twice")
            found[key] = value
        return found

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise ValueError(f"{number[:20]} is not a finite number")
        return value

    try:
        text = data.decode()
        value = json.loads(text, object_pairs_hook=no_repeats, parse_constant=finite, parse_float=finite)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text: nothing could print it
        return value
    except (ValueError, RecursionError) as problem:
        raise error(f"not valid JSON: {problem}", where=where) from problem


def read_bounded(
    path: Path, max_bytes: int, *, error: type[ClipEdgeError] = ArtifactError, hint: str | None = None
) -> bytes:
    """The bytes of `path`, which must be a file of at most `max_bytes`."""
    if path.exists() and not path.is_file():  # a pipe would wait for ever
        raise error(f"not a file: {path.name}", where=path, hint=hint)
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError as problem:
        raise error(f"missing file: {path.name}", where=path, hint=hint) from problem
    except OSError as problem:
        raise error(f"cannot read {path.name}: {problem.strerror}", where=path, hint=hint) from problem
    if len(data) > max_bytes:
        raise error(f"{path.name} is larger than {max_bytes} bytes", where=path, hint=hint)
    return data


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of the file at `path` in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(folder: Path, relative: str, *, error: type[ClipEdgeError] = ArtifactError) -> Path:
    """The path of `relative` below `folder`.

    Raises:
        error: `relative` is absolute, leaves the folder, or passes through a link that leaves it.
    """
    pure = PurePosixPath(relative)
    wrong = not relative or pure.is_absolute() or ".." in pure.parts or "\\" in relative or "\0" in relative
    if not wrong:
        try:
            wrong = not (folder / pure).resolve().is_relative_to(folder.resolve())
        except (OSError, RuntimeError, UnicodeError):  # a ring of links, or no name that a file can have
            wrong = True
    if wrong:
        raise error(f"a path leaves the folder: `{relative}`", where=folder, hint="the folder was tampered with")
    return folder / pure


def human_bytes(count: float) -> str:
    """`count` in the unit a person would use: 512 B, 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
