"""Protocol Buffers' wire format, read only: what is needed to read a Core ML model without Apple's tools.

Reading the saved bytes with code of its own is the point of this backend: it shares nothing with what wrote them, and
loads in a moment where coremltools takes half a minute and torch. Format: protobuf.dev, "Encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

Message = dict[int, list["int | memoryview"]]  # field number -> values, in the order of the file

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10


def message(data: memoryview) -> Message:
    """The fields of one message; nested messages stay bytes until they are asked for.

    Raises:
        ValueError: the bytes are no message.
    """
    found: Message = {}
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        value, position = _value(data, position, key & 7)
        found.setdefault(key >> 3, []).append(value)
    return found


def children(parent: Message, number: int) -> Iterator[Message]:
    """Every nested message of a repeated field."""
    for data in parent.get(number, ()):
        yield message(as_bytes(data))


def child(parent: Message, number: int) -> Message:
    """The nested message of a field; an empty one when it is not there, as protobuf defines."""
    return next(children(parent, number), {})


def text(parent: Message, number: int) -> str:
    """A string field."""
    values = parent.get(number, ())
    return as_bytes(values[-1]).tobytes().decode() if values else ""


def integer(parent: Message, number: int) -> int:
    """An integer field, 64 bits, signed as protobuf's int32 and int64 are."""
    values = parent.get(number, ())
    if not values:
        return 0
    value = values[-1]
    if not isinstance(value, int):
        raise ValueError("an integer expected; found bytes")
    return value - (1 << 64) if value >= 1 << 63 else value


def entries(parent: Message, number: int) -> Iterator[tuple[str, Message]]:
    """Keys and values of a map from strings to messages."""
    for entry in children(parent, number):
        yield text(entry, 1), child(entry, 2)


def floats(parent: Message, number: int, dtype: type[np.floating]) -> np.ndarray:
    """A repeated float or double field, packed or not."""
    size = np.dtype(dtype).itemsize
    letter = "<Q" if size == 8 else "<I"
    parts = [struct.pack(letter, part) if isinstance(part, int) else part.tobytes() for part in parent.get(number, ())]
    return np.frombuffer(b"".join(parts), dtype=dtype)


def integers(parent: Message, number: int) -> np.ndarray:
    """A repeated int32, int64 or bool field, packed or not -> int64."""
    found: list[int] = []
    for part in parent.get(number, ()):
        if isinstance(part, int):
            found.append(part)
            continue
        position = 0
        while position < len(part):
            value, position = _varint(part, position)
            found.append(value)
    return np.array(found, dtype=np.uint64).astype(np.int64)


def _value(data: memoryview, position: int, kind: int) -> tuple[int | memoryview, int]:
    if kind == VARINT:
        return _varint(data, position)
    if kind in (FIXED32, FIXED64):
        end = position + (4 if kind == FIXED32 else 8)
        return int.from_bytes(_slice(data, position, end), "little"), end
    if kind == BYTES:
        length, position = _varint(data, position)
        return _slice(data, position, position + length), position + length
    raise ValueError(f"wire type {kind} is not known")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for i in range(MAX_VARINT_BYTES):
        if position + i >= len(data):
            raise ValueError("the message ends within a number")
        byte = data[position + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & (1 << 64) - 1, position + i + 1
    raise ValueError("a number is longer than ten bytes")


def _slice(data: memoryview, start: int, end: int) -> memoryview:
    if end > len(data):
        raise ValueError(f"the message ends {end - len(data)} bytes too early")
    return data[start:end]


def as_bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a string or message expected; found a number")
    return value
