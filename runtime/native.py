"""libclip_edge through ctypes: finding the library, its structures, and its statuses as our errors."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import clip_edge
from clip_edge.bundle import EXPORT_AGAIN
from clip_edge.errors import BundleError, ClipEdgeError, UnavailableError, UsageError

ABI_VERSION = 1
LIBRARY = "CLIP_EDGE_LIBRARY"  # the environment variable that names the file
ENGINE = "ONNXRUNTIME_LIBRARY"  # the same for ONNX Runtime; without it, the one in the Python package is used
INSTALL = f"scripts/native && export {LIBRARY}=$PWD/build/host/runtime/src/libclip_edge.so  # docs/embed.md"
NAMES = ("libclip_edge.dylib",) if sys.platform == "darwin" else ("libclip_edge.so.0", "libclip_edge.so")


class Image(ctypes.Structure):
    """clip_edge_image"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("format", ctypes.c_int32),
        ("plane", ctypes.c_void_p * 3),
        ("stride", ctypes.c_int32 * 3),
        ("orientation", ctypes.c_int32),
        ("yuv", ctypes.c_int32),
        ("decoding", ctypes.c_int32),
        ("path", ctypes.c_char_p),
        ("encoded_bytes", ctypes.c_size_t),
    ]


class PreprocessSpec(ctypes.Structure):
    """clip_edge_preprocess_spec"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("size", ctypes.c_int32),
        ("resize", ctypes.c_int32),
        ("interpolation", ctypes.c_int32),
        ("mean", ctypes.c_float * 3),
        ("std", ctypes.c_float * 3),
    ]


class TextSpec(ctypes.Structure):
    """clip_edge_text_spec"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("context_length", ctypes.c_int32),
        ("vocab_size", ctypes.c_int32),
        ("pad_id", ctypes.c_int32),
        ("bos_id", ctypes.c_int32),
        ("eos_id", ctypes.c_int32),
        ("clean", ctypes.c_int32),
    ]


class ModelOptions(ctypes.Structure):
    """clip_edge_model_options"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("threads", ctypes.c_int32),
        ("precision", ctypes.c_char_p),
        ("onnxruntime", ctypes.c_char_p),
        ("backend", ctypes.c_char_p),
        ("plugin", ctypes.c_char_p),
        ("libraries", ctypes.c_char_p),
        ("engines", ctypes.c_char_p),
        ("device", ctypes.c_int32),
    ]


class ModelInfo(ctypes.Structure):
    """clip_edge_model_info, up to the text."""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("dim", ctypes.c_int32),
        ("name", ctypes.c_char_p),
        ("embedding_space", ctypes.c_char_p),
        ("logit_scale", ctypes.c_float),
        ("normalized", ctypes.c_int32),
        ("research_only", ctypes.c_int32),
        ("preprocess", PreprocessSpec),
        ("text", TextSpec),
    ]


# clip_edge_status -> what it means for a Python program; the others are faults of a bundle
USAGE, UNAVAILABLE = (1, 7), (5, 6, 13)


def candidates() -> list[str]:
    """Where the library may be: named by the environment, beside the package, or known to the system's linker."""
    named = os.environ.get(LIBRARY)
    if named:
        return [named]
    beside = Path(clip_edge.__file__).parent
    return [*(str(beside / name) for name in NAMES if (beside / name).exists()), *NAMES]


def is_found() -> bool:
    """Whether the library can be opened here."""
    try:
        library()
    except UnavailableError:
        return False
    return True


@functools.cache
def library() -> ctypes.CDLL:
    """The opened library; size_t and pointers are given as ctypes objects by the callers.

    Raises:
        UnavailableError: it is not here, or is of another ABI.
    """
    problems = []
    for name in candidates():
        try:
            opened = ctypes.CDLL(name)
            opened.clip_edge_last_error.restype = ctypes.c_char_p
            opened.clip_edge_version.restype = ctypes.c_char_p
            found = int(opened.clip_edge_abi_version())
        except (OSError, AttributeError) as problem:
            problems.append(str(problem))
            continue
        if found < ABI_VERSION:
            raise UnavailableError(f"{name}: ABI {ABI_VERSION} expected; found {found}", hint=INSTALL)
        return opened
    raise UnavailableError(f"libclip_edge cannot be opened: {problems[-1]}", hint=INSTALL)


def check(status: int, where: Path | str) -> None:
    """Raise what a failed call means: UsageError, UnavailableError or BundleError, with the library's own text."""
    if status == 0:
        return
    text = library().clip_edge_last_error().decode("utf-8", "replace")
    kind: type[ClipEdgeError] = BundleError
    hint: str | None = EXPORT_AGAIN
    if status in USAGE:
        kind, hint = UsageError, None
    elif status in UNAVAILABLE:
        kind, hint = UnavailableError, f"name a working ONNX Runtime library in ${ENGINE}"
    raise kind(f"libclip_edge: {text}", where=where, hint=hint)


def engine_library() -> bytes | None:
    """The file of ONNX Runtime that the library shall open; None: the system's."""
    named = os.environ.get(ENGINE)
    if named:
        return named.encode()
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "capi"
    found = sorted([*folder.glob("libonnxruntime.so.*"), *folder.glob("libonnxruntime.*.dylib")])
    return os.fsencode(found[0]) if found else None


def size_of(count: int) -> ctypes.c_size_t:
    """A size_t."""
    return ctypes.c_size_t(count)


def pointer_to(array: Any) -> ctypes.c_void_p:
    """The address of a numpy array, which must be kept alive and contiguous."""
    return ctypes.c_void_p(array.ctypes.data)
