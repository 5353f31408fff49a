"""ONNX Runtime on an NVIDIA GPU, with TensorRT's kernels: a bundle's first load builds engines, the next find them.

`tensorrt` runs the same graphs without ONNX Runtime, and proves each engine before it is used.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from ctypes.util import find_library
from pathlib import Path

import numpy as np

from clip_edge.bundle import Artifact, Bundle
from clip_edge.preprocess import Floats
from clip_edge.runtime.backends import Options, Run, onnxruntime_cuda
from clip_edge.runtime.tensorrt import cache
from clip_edge.runtime.tensorrt.engine import parts
from clip_edge.runtime.tensorrt.plan import Graph, read_graph

PACKAGE = "tensorrt_libs"  # of the wheels; on a Jetson the library is the system's
FOLDER = "onnxruntime"  # in the folder of engines: ONNX Runtime keeps its own there


def is_found() -> bool:
    """Whether ONNX Runtime for GPUs, a GPU and the library are here; nothing heavy is loaded to see it."""
    has_library = importlib.util.find_spec(PACKAGE) is not None or find_library("nvinfer") is not None
    return has_library and onnxruntime_cuda.is_found()


def open_tower(bundle: Bundle, artifact: Artifact, options: Options) -> Run:
    """As the backend `onnxruntime-cuda`. Building takes minutes; more rows than the profile allows run in parts.

    Raises:
        BundleError: as the backend `onnxruntime`, or there is no plan.
        UnavailableError: TensorRT, CUDA or cuDNN cannot be loaded, or others may write where engines lie.
    """
    from clip_edge.runtime.backends.onnxruntime import Provider, open_on

    onnxruntime_cuda.load_libraries()
    with contextlib.suppress(ImportError):
        importlib.import_module(PACKAGE)  # which loads the library
    graph = read_graph(bundle, artifact)
    folder = (options.engines or cache.default_folder()) / FOLDER
    cache.make_folder(folder)
    gpu = provider(graph, folder, options)
    providers: list[Provider] = [gpu, onnxruntime_cuda.provider(options), "CPUExecutionProvider"]
    run = open_on(providers, bundle, artifact, options, device="cuda")

    def in_parts(array: np.ndarray) -> Floats:
        found: Floats = np.empty((len(array), graph.dim), np.float32)
        for start, stop in parts(len(array), graph.profiles):
            found[start:stop] = run(array[start:stop])
        return found

    return in_parts


def provider(graph: Graph, folder: Path, options: Options) -> tuple[str, dict[str, object]]:
    """The provider's name and its settings, as ONNX Runtime takes them.

    No flag for fp16 or int8: with one, ONNX Runtime builds a weakly typed network, which forgets what the graph says.
    """
    from clip_edge.runtime.backends.onnxruntime import TENSORRT

    ((name, shapes),) = graph.shapes(graph.profiles[-1]).items()
    least, best, most = (f"{name}:{'x'.join(map(str, shape))}" for shape in shapes)
    return TENSORRT, {
        "device_id": options.device,
        "trt_profile_min_shapes": least,
        "trt_profile_opt_shapes": best,
        "trt_profile_max_shapes": most,
        "trt_max_workspace_size": graph.workspace_bytes,
        "trt_builder_optimization_level": graph.optimization_level,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_engine_cache_prefix": graph.sha256,  # another graph is another engine
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder),
    }
