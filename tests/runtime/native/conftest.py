"""Builds libclip_edge once and opens it with ctypes: the tests here compare it with the Python side."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clip_edge.preprocess import Bytes, PreprocessSpec
from clip_edge.runtime.native import Image, ModelOptions, engine_library
from clip_edge.runtime.native import PreprocessSpec as Spec
from clip_edge.runtime.native import TextSpec as Text
from clip_edge.tokenizer import TextSpec

ROOT = Path(__file__).parents[3]


class Timings(ctypes.Structure):
    """clip_edge_timings"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("prepare_ns", ctypes.c_uint64),
        ("encode_ns", ctypes.c_uint64),
        ("decode_ns", ctypes.c_uint64),
    ]


class TowerCheck(ctypes.Structure):
    """clip_edge_tower_check"""

    _fields_ = [
        ("cases", ctypes.c_int32),
        ("min_cosine", ctypes.c_float),
        ("mean_cosine", ctypes.c_float),
        ("max_abs", ctypes.c_float),
        ("tolerance", ctypes.c_float),
        ("passed", ctypes.c_int32),
    ]


class Verification(ctypes.Structure):
    """clip_edge_verification"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("passed", ctypes.c_int32),
        ("files", ctypes.c_int32),
        ("preprocess_max_grey", ctypes.c_int32),
        ("token_rows_different", ctypes.c_int32),
        ("top1_agreement", ctypes.c_float),
        ("image", TowerCheck),
        ("text", TowerCheck),
    ]


def text_spec(spec: TextSpec) -> Text:
    """clip_edge_text_spec"""
    bos_id = -1 if spec.bos_id is None else spec.bos_id
    text = Text(ctypes.sizeof(Text), spec.context_length, spec.vocab_size, spec.pad_id, bos_id, spec.eos_id)
    text.clean = ("none", "clip", "canonicalize", "whitespace").index(spec.clean)
    return text


class Library:
    """The C functions under Python names; every failure is an AssertionError with the library's own text."""

    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        self.c.clip_edge_last_error.restype = ctypes.c_char_p

    def check(self, status: int) -> None:
        assert status == 0, self.c.clip_edge_last_error().decode()

    def image(self, planes: list[Bytes], width: int, height: int, format: int = 0, **fields: int) -> Image:
        image = Image()
        self.c.clip_edge_image_init(ctypes.byref(image), ctypes.c_size_t(ctypes.sizeof(image)))
        image.width, image.height, image.format = width, height, format
        for index, plane in enumerate(planes):
            image.plane[index] = plane.ctypes.data
            image.stride[index] = plane.strides[0]
        for name, value in fields.items():
            setattr(image, name, value)
        return image

    def encoded(self, file: bytes, *, exact: bool = True) -> Image:
        """A JPEG or PNG in memory; the picture keeps its bytes alive."""
        image = self.image([], 0, 0, 8, decoding=int(exact), encoded_bytes=len(file))
        image.keep = np.frombuffer(file + b"-", np.uint8)  # type: ignore[attr-defined]  # never empty
        image.plane[0] = image.keep.ctypes.data
        return image

    def spec(self, spec: PreprocessSpec) -> Spec:
        result = Spec()
        self.c.clip_edge_preprocess_spec_init(ctypes.byref(result), ctypes.c_size_t(ctypes.sizeof(result)))
        result.size = spec.size
        result.resize = ("shortest", "squash", "shortest_floor").index(spec.resize)
        result.interpolation = ("bilinear", "bicubic").index(spec.interpolation)
        result.mean[:] = spec.mean
        result.std[:] = spec.std
        return result

    def resize(self, spec: PreprocessSpec, image: Image) -> Bytes:
        out = np.empty((spec.size, spec.size, 3), np.uint8)
        arguments = ctypes.byref(self.spec(spec)), ctypes.byref(image)
        self.check(
            self.c.clip_edge_resize_image(*arguments, ctypes.c_void_p(out.ctypes.data), ctypes.c_size_t(out.size))
        )
        return out

    def preprocess(self, spec: PreprocessSpec, image: Image) -> np.ndarray:
        out = np.empty((3, spec.size, spec.size), np.float32)
        arguments = ctypes.byref(self.spec(spec)), ctypes.byref(image)
        self.check(
            self.c.clip_edge_preprocess_image(*arguments, ctypes.c_void_p(out.ctypes.data), ctypes.c_size_t(out.size))
        )
        return out

    def open_tokenizer(self, json_bytes: bytes, spec: TextSpec) -> ctypes.c_void_p:
        """A clip_edge_tokenizer; free it, or leave it to the end of the process."""
        text, handle, size = text_spec(spec), ctypes.c_void_p(), ctypes.c_size_t
        made = self.c.clip_edge_tokenizer_new(
            json_bytes, size(len(json_bytes)), ctypes.byref(text), ctypes.byref(handle)
        )
        self.check(made)
        return handle

    def tokenizer(self, json_bytes: bytes, spec: TextSpec) -> Callable[[bytes], np.ndarray]:
        """A function from the bytes of a sentence to its row of ids; the handle lives as long as the process."""
        handle, size = self.open_tokenizer(json_bytes, spec), ctypes.c_size_t

        def tokenize(sentence: bytes) -> np.ndarray:
            ids = np.empty(spec.context_length, np.int32)
            out = ctypes.c_void_p(ids.ctypes.data)
            self.check(self.c.clip_edge_tokenize(handle, sentence, size(len(sentence)), out, size(len(ids))))
            return ids

        return tokenize

    def open(self, folder: Path, *, threads: int = 1, device: int = 0, **options_in_words: str | Path | None) -> Model:
        """A model with one session; errors are AssertionErrors with the library's text."""
        words = {"onnxruntime": onnxruntime_library(), **options_in_words}
        options = ModelOptions(ctypes.sizeof(ModelOptions), threads, device=device)
        for name, value in words.items():
            setattr(options, name, None if value is None else os.fsencode(value))
        handle = ctypes.c_void_p()
        self.check(self.c.clip_edge_model_open(str(folder).encode(), ctypes.byref(options), ctypes.byref(handle)))
        return Model(self, handle)


class Model:
    """A clip_edge_model and one clip_edge_session."""

    def __init__(self, library: Library, handle: ctypes.c_void_p) -> None:
        self.library, self.handle, self.session = library, handle, ctypes.c_void_p()
        library.check(library.c.clip_edge_session_new(handle, ctypes.byref(self.session)))

    def close(self) -> None:
        self.library.c.clip_edge_session_free(self.session)
        self.library.c.clip_edge_model_free(self.handle)

    def timings(self) -> tuple[int, int, int]:
        """Nanoseconds of the last call: preparing, encoding, decoding."""
        timings = Timings()
        size = ctypes.c_size_t(ctypes.sizeof(timings))
        self.library.c.clip_edge_session_get_timings(self.session, ctypes.byref(timings), size)
        return timings.prepare_ns, timings.encode_ns, timings.decode_ns

    def check_files(self) -> None:
        self.library.check(self.library.c.clip_edge_model_check(self.handle))

    def verify(self) -> tuple[int, str, Verification]:
        """Status, what the library says of it, and the report."""
        report, size = Verification(), ctypes.c_size_t(ctypes.sizeof(Verification))
        status = self.library.c.clip_edge_model_verify(self.handle, ctypes.byref(report), size)
        return status, self.library.c.clip_edge_last_error().decode() if status else "", report

    def images(self, images: list[Image], dim: int) -> np.ndarray:
        out = np.empty((len(images), dim), np.float32)
        array, size = (Image * len(images))(*images), ctypes.c_size_t
        call = self.library.c.clip_edge_embed_images
        self.library.check(
            call(self.session, array, size(len(images)), ctypes.c_void_p(out.ctypes.data), size(out.size))
        )
        return out

    def texts(self, texts: list[str], dim: int) -> np.ndarray:
        out = np.empty((len(texts), dim), np.float32)
        encoded, size = [text.encode() for text in texts], ctypes.c_size_t
        array, lengths = (ctypes.c_char_p * len(texts))(*encoded), (size * len(texts))(*map(len, encoded))
        call, to = self.library.c.clip_edge_embed_texts, ctypes.c_void_p(out.ctypes.data)
        self.library.check(call(self.session, array, lengths, size(len(texts)), to, size(out.size)))
        return out

    def classify(self, image: Image, labels: list[str], templates: list[str]) -> np.ndarray:
        c, size, prompts = self.library.c, ctypes.c_size_t, ctypes.c_void_p()
        names = (ctypes.c_char_p * len(labels))(*[label.encode() for label in labels])
        frames = (ctypes.c_char_p * len(templates))(*[template.encode() for template in templates])
        made = c.clip_edge_prompts_new(
            self.session, names, size(len(labels)), frames, size(len(templates)), ctypes.byref(prompts)
        )
        self.library.check(made)
        out = np.empty(len(labels), np.float32)
        to = ctypes.c_void_p(out.ctypes.data)
        self.library.check(c.clip_edge_classify(self.session, prompts, ctypes.byref(image), to, size(len(labels))))
        c.clip_edge_prompts_free(prompts)
        return out


def onnxruntime_library() -> str:
    """The shared library inside of the installed onnxruntime package."""
    found = engine_library()
    assert found is not None
    return os.fsdecode(found)


@pytest.fixture(scope="session")
def library_path() -> Path:
    """libclip_edge.so, built from this tree as `scripts/native host` builds it: a moment where that was done."""
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("cmake and ninja build the native library; they are not installed")
    for command in (["cmake", "--preset", "host"], ["cmake", "--build", "--preset", "host", "-j2"]):
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert result.returncode == 0, result.stdout + result.stderr
    return ROOT / "build" / "host" / "runtime" / "src" / "libclip_edge.so"


@pytest.fixture(scope="session")
def cli_path(library_path: Path) -> Path:
    """clip-edge-cli, from the same build."""
    return library_path.parents[1] / "cli" / "clip-edge-cli"


@pytest.fixture(scope="session")
def library(library_path: Path) -> Library:
    return Library(library_path)
