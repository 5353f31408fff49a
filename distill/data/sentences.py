"""Sentences without pictures: a .txt file with one on each line."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from clip_edge.errors import DataError
from clip_edge.files import read_bounded

MAX_FILE_BYTES = 1024**3
MAX_CHARACTERS = 10_000  # of a sentence: a longer line is no sentence, but a file of another kind


@dataclass(frozen=True, eq=False)
class Sentences(Sequence[str]):
    """The lines of a file, without white space around them and without empty ones.

    They are one block of bytes and the places where the sentences end (N,): processes that are forked share both.
    """

    name: str
    data: bytes
    ends: np.ndarray[Any, np.dtype[np.int64]]
    sha256: str  # of the file

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[number] for number in range(*i.indices(len(self)))]
        number = range(len(self))[i]  # negative ones count from the end, others raise IndexError
        start = int(self.ends[number - 1]) if number else 0
        return self.data[start : int(self.ends[number])].decode()


def read_sentences(path: Path) -> Sentences:
    """The sentences of a file in UTF-8.

    Raises:
        DataError: a file that cannot be read or is too large, a line that is no UTF-8 or too long, or no sentence.
    """
    data = read_bounded(path, MAX_FILE_BYTES, error=DataError)
    kept, ends = bytearray(), []
    for number, line in enumerate(io.BytesIO(data.removeprefix(b"\xef\xbb\xbf")), start=1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as problem:
            hint = "one sentence on each line, in UTF-8"
            raise DataError(f"line {number} is not UTF-8", where=path, hint=hint) from problem
        if len(text) > MAX_CHARACTERS:
            raise DataError(
                f"line {number} has {len(text):,} characters; a sentence may have {MAX_CHARACTERS:,}",
                where=path,
                hint="put one sentence on each line",
            )
        if text:
            kept += text.encode()
            ends.append(len(kept))
    if not ends:
        raise DataError("the file holds no sentence", where=path, hint="put one sentence on each line")
    return Sentences(path.name, bytes(kept), np.array(ends, dtype=np.int64), hashlib.sha256(data).hexdigest())
