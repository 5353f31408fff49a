"""ONNX Runtime on an NVIDIA GPU, with CUDA's and cuDNN's kernels."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io

from clip_edge.bundle import Artifact, Bundle
from clip_edge.machine import gpus
from clip_edge.runtime.backends import Options, Run

PROVIDER = "CUDAExecutionProvider"
PACKAGE = "onnxruntime-gpu"


def is_found() -> bool:
    """Whether the package with this provider and a GPU are here; nothing heavy is loaded to see it."""
    try:
        importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return False
    return bool(gpus())


def open_tower(bundle: Bundle, artifact: Artifact, options: Options) -> Run:
    """As the backend `onnxruntime`; the copies to and from the GPU are part of every call.

    Raises:
        BundleError: as the backend `onnxruntime`.
        UnavailableError: CUDA or cuDNN cannot be loaded.
    """
    from clip_edge.runtime.backends.onnxruntime import open_on

    load_libraries()
    return open_on([provider(options), "CPUExecutionProvider"], bundle, artifact, options, device="cuda")


def provider(options: Options) -> tuple[str, dict[str, object]]:
    """The provider's name and its settings, as ONNX Runtime takes them."""
    # The default, an exhaustive search, takes seconds for each new batch size.
    return PROVIDER, {"device_id": options.device, "cudnn_conv_algo_search": "HEURISTIC"}


def load_libraries() -> None:
    """CUDA and cuDNN from NVIDIA's packages, where they are: `onnxruntime-gpu[cuda,cudnn]` brings them."""
    import onnxruntime as ort

    with contextlib.redirect_stdout(io.StringIO()):  # what is missing, the session says when it is opened
        ort.preload_dlls()
