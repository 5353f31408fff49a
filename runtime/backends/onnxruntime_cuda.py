"""ONNX Runtime on an NVIDIA GPU, with CUDA's and cuDNN's kernels."""

from __future__ import annotations

import importlib.metadata

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

    # The default, an exhaustive search, takes seconds for each new batch size.
    settings = {"device_id": options.device, "cudnn_conv_algo_search": "HEURISTIC"}
    return open_on([(PROVIDER, settings), "CPUExecutionProvider"], bundle, artifact, options)
