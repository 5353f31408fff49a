"""libclip_edge in another process, which may be another processor: the same methods as `conftest.Library`.

The other side, and the protocol, is runtime/tests/parity.cpp.
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from clip_edge.preprocess import Bytes, PreprocessSpec
from clip_edge.runtime.native import Image
from clip_edge.runtime.native import TextSpec as Text
from clip_edge.tokenizer import TextSpec

from .conftest import Library, text_spec


def blob(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


class RemoteLibrary(Library):
    """Failures are AssertionErrors with the library's own text, as in this process."""

    def __init__(self, local: Path, command: Sequence[str], environment: Mapping[str, str], onnxruntime: Path) -> None:
        super().__init__(local)  # only fills structures
        self._onnxruntime = onnxruntime
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | dict(environment)
        )

    def ask(self, *parts: bytes) -> bytes:
        """One request and its answer."""
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        to.write(b"".join(parts))
        to.flush()
        head = back.read(12)
        assert len(head) == 12, f"the other process ended with {self._process.wait()}"
        status, size = struct.unpack("<iQ", head)
        answer = back.read(size)
        assert status == 0, answer.decode()
        return answer

    def close(self) -> None:
        self._process.communicate()

    def image(self, planes: list[Bytes], width: int, height: int, format: int = 0, **fields: int) -> Image:
        image = super().image(planes, width, height, format, **fields)
        image.planes = planes  # type: ignore[attr-defined]  # what travels behind the structure
        return image

    def encoded(self, file: bytes, *, exact: bool = True) -> Image:
        return self.image([np.frombuffer(file, np.uint8)], 0, 0, 8, decoding=int(exact), encoded_bytes=len(file))

    def travelling(self, image: Image) -> bytes:
        """The structure and its planes as they lie in memory, padding between rows included."""
        planes = []
        for plane in image.planes:  # type: ignore[attr-defined]
            last = plane.ctypes.data + sum(
                step * (side - 1) for step, side in zip(plane.strides, plane.shape, strict=True)
            )
            planes.append(ctypes.string_at(plane.ctypes.data, last + plane.itemsize - plane.ctypes.data))
        return bytes(image) + b"".join(blob(plane) for plane in [*planes, b"", b""][:3])

    def resize(self, spec: PreprocessSpec, image: Image) -> Bytes:
        found = self.ask(b"r", bytes(self.spec(spec)), self.travelling(image))
        return np.frombuffer(found, np.uint8).reshape(spec.size, spec.size, 3)

    def preprocess(self, spec: PreprocessSpec, image: Image) -> np.ndarray:
        found = self.ask(b"p", bytes(self.spec(spec)), self.travelling(image))
        return np.frombuffer(found, np.float32).reshape(3, spec.size, spec.size)

    def tokenizer(self, json_bytes: bytes, spec: TextSpec) -> Callable[[bytes], np.ndarray]:
        text: Text = text_spec(spec)
        number, length = self.ask(b"t", bytes(text), blob(json_bytes)), struct.pack("<I", spec.context_length)
        return lambda sentence: np.frombuffer(self.ask(b"k", number, length, blob(sentence)), np.int32)

    def embedder(self, folder: Path) -> RemoteModel:
        return RemoteModel(self, self.ask(b"m", blob(os.fsencode(folder)), blob(os.fsencode(self._onnxruntime))))


class RemoteModel:
    """A session of the other process."""

    def __init__(self, library: RemoteLibrary, number: bytes) -> None:
        self._library, self._number = library, number

    def images(self, images: list[Image], dim: int) -> np.ndarray:
        return self._embed(b"i", [self._library.travelling(image) for image in images], dim)

    def texts(self, texts: list[str], dim: int) -> np.ndarray:
        return self._embed(b"s", [blob(text.encode()) for text in texts], dim)

    def _embed(self, letter: bytes, rows: list[bytes], dim: int) -> np.ndarray:
        found = self._library.ask(letter, self._number, struct.pack("<II", dim, len(rows)), *rows)
        return np.frombuffer(found, np.float32).reshape(len(rows), dim)
