"""libclip_edge: the same C library as inside of apps. Pictures and sentences are prepared by it too."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from clip_edge.bundle import TOKENIZER, Artifact, Bundle, Tower
from clip_edge.errors import UnavailableError
from clip_edge.files import MAX_JSON_BYTES
from clip_edge.preprocess import Bytes, Floats
from clip_edge.runtime import native
from clip_edge.runtime.backends import Inputs, Options, Run
from clip_edge.tokenizer import Ids


def open_tower(bundle: Bundle, artifact: Artifact, options: Options) -> Run:
    """One tower as a function from its input array to (B, D) float32; each call takes a session of its own.

    Raises:
        BundleError: the file was changed, or the engine cannot read or run it.
        UnavailableError: libclip_edge or ONNX Runtime is not here.
    """
    model = _Model(bundle, options.threads or 0, artifact.precision)
    dim = bundle.manifest.embedding.dim
    call = native.library().clip_edge_encode_pixels
    kind: type[np.float32] | type[np.int32] = np.float32
    if artifact.tower == "text":
        call, kind = native.library().clip_edge_encode_ids, np.int32
    model.load(artifact.tower)

    def run(array: np.ndarray) -> Floats:
        rows = np.ascontiguousarray(array, kind)
        out = np.empty((len(rows), dim), np.float32)
        counts = native.size_of(len(rows)), native.size_of(out.size)
        model.use(lambda session: call(session, native.pointer_to(rows), counts[0], native.pointer_to(out), counts[1]))
        return out

    return run


def open_inputs(bundle: Bundle) -> Inputs:
    """Preprocessing and tokenising by libclip_edge, with what it reads in the manifest.

    Raises:
        BundleError: the tokenizer was changed, or is of a kind that the library does not know.
        UnavailableError: libclip_edge is not here.
    """
    model = _Model(bundle, 0, None)
    library, where = native.library(), bundle.folder
    info = model.info()
    side = int(info.preprocess.size)

    def pixels(picture: Image.Image) -> Bytes:
        out = np.empty((side, side, 3), np.uint8)
        image, keep = _image(picture)
        arguments = ctypes.byref(info.preprocess), ctypes.byref(image)
        native.check(
            library.clip_edge_resize_image(*arguments, native.pointer_to(out), native.size_of(out.size)), where
        )
        del keep
        return out

    def values(picture: Image.Image) -> Floats:
        out = np.empty((3, side, side), np.float32)
        image, keep = _image(picture)
        arguments = ctypes.byref(info.preprocess), ctypes.byref(image)
        call = library.clip_edge_preprocess_image
        native.check(call(*arguments, native.pointer_to(out), native.size_of(out.size)), where)
        del keep
        return out

    return Inputs(pixels, values, lambda: _Tokenizer(bundle, info.text))


def _image(picture: Image.Image) -> tuple[native.Image, Bytes]:
    """An upright RGB picture as the library's view of it, and the array that must outlive the view."""
    array = np.ascontiguousarray(picture, np.uint8)  # (H, W, 3)
    view = native.Image()
    native.library().clip_edge_image_init(ctypes.byref(view), native.size_of(ctypes.sizeof(view)))
    view.height, view.width = array.shape[:2]
    view.plane[0] = array.ctypes.data
    return view, array


class _Tokenizer:
    """N sentences -> (N, context_length) ids, as `clip_edge.tokenizer.Tokenizer` gives them."""

    def __init__(self, bundle: Bundle, spec: native.TextSpec) -> None:
        self._library, self._where, self._length = native.library(), bundle.folder / TOKENIZER, int(spec.context_length)
        data, self._handle = bundle.read(TOKENIZER, MAX_JSON_BYTES), ctypes.c_void_p()
        made = self._library.clip_edge_tokenizer_new(
            data, native.size_of(len(data)), ctypes.byref(spec), ctypes.byref(self._handle)
        )
        native.check(made, self._where)
        weakref.finalize(self, self._library.clip_edge_tokenizer_free, self._handle)

    def __call__(self, texts: Sequence[str]) -> Ids:
        ids = np.empty((len(texts), self._length), np.int32)
        data = [text.encode("utf-8", "replace") for text in texts]
        rows = (ctypes.c_char_p * len(data))(*data), (ctypes.c_size_t * len(data))(*map(len, data))
        to = native.pointer_to(ids), native.size_of(ids.size)
        made = self._library.clip_edge_tokenize_texts(self._handle, *rows, native.size_of(len(data)), *to)
        native.check(made, self._where)
        return ids.astype(np.int64)


_PARTS: dict[Tower, int] = {"image": 1, "text": 2}  # CLIP_EDGE_LOAD_IMAGE, CLIP_EDGE_LOAD_TEXT


class _Model:
    """A clip_edge_model and the sessions that no thread uses right now."""

    def __init__(self, bundle: Bundle, threads: int, precision: str | None) -> None:
        self._library, self._where = native.library(), bundle.folder
        self._handle, self._free, self._lock = ctypes.c_void_p(), list[ctypes.c_void_p](), threading.Lock()
        options = native.ModelOptions()
        self._library.clip_edge_model_options_init(ctypes.byref(options), native.size_of(ctypes.sizeof(options)))
        options.threads = threads
        options.precision = precision.encode() if precision else None
        options.onnxruntime = native.engine_library()
        folder = str(bundle.folder).encode("utf-8", "surrogateescape")
        native.check(
            self._library.clip_edge_model_open(folder, ctypes.byref(options), ctypes.byref(self._handle)), bundle.folder
        )
        weakref.finalize(self, _close, self._library, self._handle, self._free)

    def info(self) -> native.ModelInfo:
        """What the library read in the manifest; its texts live as long as the model."""
        info = native.ModelInfo()
        status = self._library.clip_edge_model_get_info(
            self._handle, ctypes.byref(info), native.size_of(ctypes.sizeof(info))
        )
        native.check(status, self._where)
        for part in (info.preprocess, info.text):
            if part.struct_size != ctypes.sizeof(part):
                version = self._library.clip_edge_version().decode()
                raise UnavailableError(f"libclip_edge {version} is newer than this clip-edge", hint=native.INSTALL)
        return info

    def load(self, tower: Tower) -> None:
        """Open the tower now: what is wrong with it is told here, not in the first call."""
        native.check(self._library.clip_edge_model_load(self._handle, _PARTS[tower]), self._where)

    def use(self, call: Callable[[ctypes.c_void_p], int]) -> None:
        """Run one call with a session that no other thread has."""
        session = self._session()
        try:
            native.check(call(session), self._where)
        finally:
            with self._lock:
                self._free.append(session)

    def _session(self) -> ctypes.c_void_p:
        with self._lock:
            if self._free:
                return self._free.pop()
        session = ctypes.c_void_p()
        native.check(self._library.clip_edge_session_new(self._handle, ctypes.byref(session)), self._where)
        return session


def _close(library: ctypes.CDLL, model: ctypes.c_void_p, sessions: list[ctypes.c_void_p]) -> None:
    for session in sessions:
        library.clip_edge_session_free(session)
    library.clip_edge_model_free(model)
