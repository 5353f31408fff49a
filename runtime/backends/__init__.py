"""The engines that can run a bundle: a table, and one function that opens a tower in one of them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from PIL import Image

from clip_edge.bundle import TOKENIZER, Artifact, Bundle
from clip_edge.errors import UnavailableError, UsageError, unknown_name
from clip_edge.files import MAX_JSON_BYTES
from clip_edge.graphs import Graph, Precision
from clip_edge.preprocess import Bytes, Floats, normalize, to_pixels
from clip_edge.tokenizer import Ids, Tokenizer

Run = Callable[[np.ndarray], Floats]  # pixel_values (B, 3, S, S) or input_ids (B, L) -> (B, D); any thread may call it
RunGraph = Callable[[Mapping[str, np.ndarray]], dict[str, Floats]]  # inputs by name, or more -> outputs by name


@dataclass(frozen=True)
class Options:
    """How an engine works. `threads=None` leaves the number to the engine, which takes every physical core.

    `device` is the number of the GPU, `engines` the folder of engines that were built here (None: the user's cache).
    """

    threads: int | None = None
    spin: bool = False
    device: int = 0
    engines: Path | None = None


@dataclass(frozen=True)
class Backend:
    """One engine: the module that opens towers in it, the targets that it reads (the usual one first), the package."""

    module: str
    targets: tuple[str, ...]
    package: str
    install: str
    summary: str
    probe: str = ""  # `module:function` that says whether it is here, where no package says so
    prepares: bool = False  # its module has `open_inputs`: pictures and sentences are prepared by the engine too
    refuses: tuple[str, ...] = ()  # precisions of those targets that it cannot run
    judged_as: Precision | None = None  # whose tolerance holds where it computes in less than the artefact's precision
    gpu: bool = False  # it computes on an NVIDIA GPU
    graphs: bool = False  # its module has `open_graph`: it runs the graphs for segmentation


BACKENDS = {
    "onnxruntime": Backend(
        module="clip_edge.runtime.backends.onnxruntime",
        targets=("onnx", "trt", "trt-rtx"),
        package="onnxruntime",
        install="pip install onnxruntime",
        summary="CPUs on every system",
        graphs=True,
    ),
    "openvino": Backend(
        module="clip_edge.runtime.backends.openvino",
        targets=("onnx",),
        package="openvino",
        install="pip install 'clip-edge[openvino]'",
        summary="CPUs, those of Intel above all",
        refuses=("int4",),  # some blocks of weights
    ),
    "openvino-bf16": Backend(
        module="clip_edge.runtime.backends.openvino_bf16",
        targets=("onnx",),
        package="openvino, with a processor that has AMX or AVX-512 BF16",
        install="pip install 'clip-edge[openvino]'",
        summary="the same in bfloat16: faster, and near enough for some models; verify first",
        probe="clip_edge.runtime.backends.openvino_bf16:is_found",
        refuses=("int4",),
        judged_as="fp16",
    ),
    "onnxruntime-cuda": Backend(
        module="clip_edge.runtime.backends.onnxruntime_cuda",
        targets=("onnx",),
        package="onnxruntime-gpu, with an NVIDIA GPU",
        install="pip install onnxruntime-gpu in place of onnxruntime",
        summary="NVIDIA GPUs through CUDA and cuDNN",
        probe="clip_edge.runtime.backends.onnxruntime_cuda:is_found",
        gpu=True,
    ),
    "onnxruntime-tensorrt": Backend(
        module="clip_edge.runtime.backends.onnxruntime_tensorrt",
        targets=("trt",),
        package="onnxruntime-gpu, with TensorRT and an NVIDIA GPU",
        install="pip install onnxruntime-gpu in place of onnxruntime, and the TensorRT that it was built for",
        summary="NVIDIA GPUs through ONNX Runtime's TensorRT provider; `tensorrt` needs no ONNX Runtime",
        probe="clip_edge.runtime.backends.onnxruntime_tensorrt:is_found",
        gpu=True,
    ),
    "tensorrt": Backend(
        module="clip_edge.runtime.backends.tensorrt",
        targets=("trt",),
        package="tensorrt",
        install="pip install tensorrt",
        summary="NVIDIA servers and Jetson boards; engines are built on the device by `clip-edge build`",
        gpu=True,
    ),
    "tensorrt-rtx": Backend(
        module="clip_edge.runtime.backends.tensorrt_rtx",
        targets=("trt-rtx",),
        package="tensorrt_rtx_bindings",
        install="pip install 'clip-edge[trt-rtx]'",
        summary="NVIDIA desktop GPUs, Turing to Blackwell; engines travel in the bundle",
        gpu=True,
    ),
    "native": Backend(
        module="clip_edge.runtime.backends.native",
        targets=("onnx",),
        package="libclip_edge",
        install="scripts/native && export CLIP_EDGE_LIBRARY=$PWD/build/host/runtime/src/libclip_edge.so",
        summary="libclip_edge, the C library that apps use, with its own preprocessing and tokenizers",
        probe="clip_edge.runtime.native:is_found",
        prepares=True,
    ),
    "mil": Backend(
        module="clip_edge.runtime.backends.mil",
        targets=("coreml", "coreml-multifunction"),
        package="numpy",
        install="pip install numpy",
        summary="Core ML packages on any system, in numpy: proves them, and is slow",
        graphs=True,
    ),
    "coreml": Backend(
        module="clip_edge.runtime.backends.coreml",
        targets=("coreml", "coreml-multifunction"),
        package="coremltools on macOS",
        install="pip install coremltools, on a Mac; elsewhere `--backend mil` runs the same packages",
        summary="Core ML itself, on macOS",
        probe="clip_edge.runtime.backends.coreml:is_found",
    ),
}
DEFAULT = "onnxruntime"


@dataclass(frozen=True)
class Inputs:
    """How pictures and sentences become what the towers read."""

    pixels: Callable[[Image.Image], Bytes]  # upright RGB picture -> (S, S, 3)
    values: Callable[[Image.Image], Floats]  # the same, normalised: (3, S, S)
    tokens: Callable[[], Callable[[Sequence[str]], Ids]]  # opens the tokenizer: N sentences -> (N, L)


class _Module(Protocol):
    def open_tower(self, bundle: Bundle, artifact: Artifact, options: Options) -> Run: ...

    def open_inputs(self, bundle: Bundle) -> Inputs: ...

    def open_graph(self, bundle: Bundle, graph: Graph, options: Options) -> RunGraph: ...


def find_backend(name: str) -> Backend:
    """The backend of that name, installed.

    Raises:
        UsageError: no backend of that name (the nearest is named).
        UnavailableError: its package is not installed here.
    """
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    backend = BACKENDS[name]
    if not is_installed(name):
        raise UnavailableError(
            f"backend `{name}` needs the package `{backend.package}`, which is not installed", hint=backend.install
        )
    return backend


def is_installed(name: str) -> bool:
    """Whether a backend in the table can be used here: its package can be imported, or its probe says so."""
    backend = BACKENDS[name]
    if backend.probe:
        module, _, function = backend.probe.partition(":")
        return bool(getattr(importlib.import_module(module), function)())
    return importlib.util.find_spec(backend.package) is not None


def open_inputs(name: str, bundle: Bundle) -> Inputs:
    """What prepares pictures and sentences for the backend `name`: Pillow and `tokenizers`, or the backend itself.

    Raises:
        BundleError: the tokenizer was changed, or cannot be read.
    """
    backend = find_backend(name)
    if backend.prepares:
        return cast(_Module, importlib.import_module(backend.module)).open_inputs(bundle)
    spec = bundle.manifest.image.preprocess
    return Inputs(
        pixels=lambda picture: to_pixels(picture, spec),
        values=lambda picture: normalize(to_pixels(picture, spec), spec),
        tokens=lambda: Tokenizer.load(bundle.read(TOKENIZER, MAX_JSON_BYTES), bundle.manifest.text.tokenizer),
    )


def open_tower(name: str, bundle: Bundle, artifact: Artifact, options: Options) -> Run:
    """An artefact of `bundle`, its hash checked, loaded into the backend `name`.

    Raises:
        UsageError, UnavailableError: as `find_backend`.
        BundleError: the file was changed, or the engine cannot read it.
    """
    module = cast(_Module, importlib.import_module(find_backend(name).module))
    return module.open_tower(bundle, artifact, options)


def open_graph(name: str, bundle: Bundle, graph: Graph, options: Options) -> RunGraph:
    """A graph for segmentation, its hash checked, loaded into the backend `name`.

    Raises:
        UsageError, UnavailableError: as `find_backend`; the backend runs no such graphs.
        BundleError: the file was changed, or the engine cannot read it.
    """
    backend = find_backend(name)
    if not backend.graphs:
        able = ", ".join(key for key, row in BACKENDS.items() if row.graphs)
        raise UsageError(f"backend `{name}` runs no graphs for segmentation", hint=f"those that do: {able}")
    return cast(_Module, importlib.import_module(backend.module)).open_graph(bundle, graph, options)
