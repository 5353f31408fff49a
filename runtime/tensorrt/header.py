"""The first bytes of an engine file of TensorRT-RTX: what can be checked where no GPU can load it."""

from __future__ import annotations

import struct

from clip_edge.errors import BundleError

MAGIC = b"vtrt"
FORMAT = struct.Struct("<4s4xIIQ4B")  # magic, two serialisation numbers, bytes behind the header's start, version


def check_header(engine: bytes, version: str) -> None:
    """Whether `engine` is whole and says the version that built it. Seen in files of TensorRT-RTX 1.7.

    Raises:
        BundleError: it is something else, cut off, or of another version.
    """
    if len(engine) < FORMAT.size or not engine.startswith(MAGIC):
        raise BundleError("no engine of TensorRT-RTX: it does not begin with `vtrt`")
    _, _, _, size, *numbers = FORMAT.unpack_from(engine)
    if size != len(engine):
        raise BundleError(f"the engine was cut: {size} bytes expected, {len(engine)} found")
    if ".".join(map(str, numbers)) != version:
        raise BundleError(f"an engine of TensorRT-RTX {version} expected; found {'.'.join(map(str, numbers))}")
