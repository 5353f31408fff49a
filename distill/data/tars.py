"""Where the members of a tar file lie: one pass over its headers, trusting none of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

BLOCK = 512
MAX_NAME_BYTES = 64 * 1024  # a long name or extended header that is larger is an attack, not a name
FILE_TYPES = (b"0", b"\0", b"7")
COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")  # gzip, zstd, bzip2, xz
COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")  # gzip, zstd, bzip2, xz
LONG_NAME, EXTENDED, GLOBAL, FOLDER = b"L", b"x", b"g", b"5"


@dataclass(frozen=True)
class Member:
    """A member of a tar file. `kind` is "file", "folder" or "other" (links, devices, sparse files)."""

    name: str
    kind: str
    offset: int  # bytes from the start of the tar to the content
    size: int


class TarError(Exception):
    """The tar cannot be read beyond this point; the members before it are whole."""


def scan_tar(path: Path) -> Iterator[Member]:
    """The members of an uncompressed tar file, in order, without reading their content.

    Reads ustar, GNU long names and pax paths and sizes.

    Raises:
        TarError: at the first header that is damaged, or where the file is cut.
        OSError: the file cannot be read.
    """
    end = path.stat().st_size
    with path.open("rb") as file:
        long_name: str | None = None
        long_size: int | None = None
        while True:
            header = file.read(BLOCK)
            if header == b"\0" * BLOCK:
                return
            if len(header) < BLOCK:
                raise TarError("the file is cut: its end marker is missing" if file.tell() else "the file is empty")
            if file.tell() == BLOCK and header.startswith(COMPRESSED):
                raise TarError("the tar is compressed, which forbids random access: unpack it first (gunzip, zstd -d)")
            name, kind, size = _parse(header, file.tell())
            offset = file.tell()
            if kind in (LONG_NAME, EXTENDED, GLOBAL):
                content = _read_small(file, size)
                if kind == LONG_NAME:
                    long_name = _text(content.rstrip(b"\0"))
                elif kind == EXTENDED:
                    fields = _pax_fields(content)
                    long_name = fields.get("path", long_name)
                    long_size = _pax_size(fields)
            else:
                size = size if long_size is None else long_size
                if offset + size > end:
                    raise TarError(f"the file is cut inside `{long_name or name}`")
                yield _member(long_name or name, kind, offset, size)
                long_name = long_size = None
            file.seek(offset + -(-size // BLOCK) * BLOCK)


def _member(name: str, kind: bytes, offset: int, size: int) -> Member:
    if kind in FILE_TYPES and not name.endswith("/"):
        return Member(name, "file", offset, size)
    folder = kind == FOLDER or (kind in FILE_TYPES and name.endswith("/"))
    return Member(name, "folder" if folder else "other", offset, size)


def _parse(header: bytes, position: int) -> tuple[str, bytes, int]:
    """Name, type and size from a header block whose checksum holds."""
    checksum = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
    if _number(header[148:156]) != checksum:
        raise TarError(f"no tar header at byte {position - BLOCK}: the file is damaged or is no tar")
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    size = _number(header[124:136])
    if size is None:
        raise TarError(f"a size is no number at byte {position - BLOCK}: the file is damaged")
    return _text(prefix + b"/" + name if prefix else name), header[156:157], size


def _number(field: bytes) -> int | None:
    """An octal field, or a binary one (first bit set) as GNU tar writes large sizes."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    if not digits:
        return 0
    return int(digits, 8) if all(digit in b"01234567" for digit in digits) else None


def _read_small(file: BinaryIO, size: int) -> bytes:
    if size > MAX_NAME_BYTES:
        raise TarError(f"a name of {size} bytes: the file is damaged")
    content = file.read(size)
    if len(content) < size:
        raise TarError("the file is cut inside a header")
    return content


def _pax_fields(content: bytes) -> dict[str, str]:
    """The `length key=value` records of an extended header."""
    fields = {}
    while content:
        digits, space, _ = content.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = content[len(digits) + 1 : length]
        key, equals, value = record.rstrip(b"\n").partition(b"=")
        if not space or not equals or length > len(content):
            raise TarError("an extended header is damaged")
        fields[_text(key)] = _text(value)
        content = content[length:]
    return fields


def _pax_size(fields: dict[str, str]) -> int | None:
    size = fields.get("size")
    if size is not None and not (size.isascii() and size.isdigit() and len(size) < 20):
        raise TarError("an extended header gives a size that is no number")
    return None if size is None else int(size)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
