"""OpenVINO on the CPU, in float32 (`openvino_bf16.py`: in bfloat16)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache

import numpy as np
import openvino

from clip_edge.bundle import Artifact, Bundle
from clip_edge.errors import BundleError
from clip_edge.preprocess import Floats
from clip_edge.runtime.backends import Options, Run

MAX_GRAPH_BYTES = 2 * 1024**3  # what one protobuf file can hold
SIZES = (8, 1)  # rows of the programs that a tower has: larger batches are run in parts, and gain nothing beyond eight


def open_tower(bundle: Bundle, artifact: Artifact, options: Options) -> Run:
    """One tower as a function from its input array to (B, D) float32.

    Raises:
        BundleError: the file was changed, or OpenVINO cannot read, compile or run it.
    """
    return open_as({"INFERENCE_PRECISION_HINT": "f32"}, bundle, artifact, options)


def open_as(settings: Mapping[str, object], bundle: Bundle, artifact: Artifact, options: Options) -> Run:
    """As `open_tower`, with OpenVINO's own `settings`.

    Programs are compiled for a fixed number of rows: one takes 5 to 15 % less time than a program for any number, and
    with that, OpenVINO 2026.4 gave wrong embeddings of some sentences in 8 bits (cosines down to -0.39). The second
    is compiled when it is needed, from the file: its bytes are not kept, and are checked again.
    """

    @cache
    def program(rows: int) -> openvino.InferRequest:
        graph = bundle.read(artifact.path, MAX_GRAPH_BYTES)
        try:
            return _compile(graph, rows, artifact, settings, options)
        except Exception as problem:  # OpenVINO's errors share no class of their own
            raise _cannot("load", artifact, bundle, problem) from problem

    program(1)
    turn = threading.Lock()  # a request holds the input and output of one call

    def embed(given: np.ndarray) -> Floats:
        request = program(len(given))
        try:
            request.infer({artifact.input: given})
            return np.array(request.get_tensor(artifact.output).data, dtype=np.float32)
        except Exception as problem:
            raise _cannot("run", artifact, bundle, problem) from problem

    def run(array: np.ndarray) -> Floats:
        given = np.ascontiguousarray(array, dtype=artifact.input_dtype)
        parts: list[Floats] = []
        start = 0
        with turn:
            while start < len(given):
                rows = next(size for size in SIZES if size <= len(given) - start)
                parts.append(embed(given[start : start + rows]))
                start += rows
        embeds: Floats = np.concatenate(parts)
        if embeds.shape != (len(array), bundle.manifest.embedding.dim):
            raise _cannot("run", artifact, bundle, ValueError(f"it gives {embeds.shape} for {len(array)} rows"))
        return embeds

    return run


def _compile(
    graph: bytes, rows: int, artifact: Artifact, settings: Mapping[str, object], options: Options
) -> openvino.InferRequest:
    core = openvino.Core()
    model = core.read_model(graph)
    shape = model.input(artifact.input).get_partial_shape()
    shape[0] = rows
    model.reshape({artifact.input: shape})
    threads = {} if options.threads is None else {"INFERENCE_NUM_THREADS": options.threads}
    return core.compile_model(
        model, "CPU", {"PERFORMANCE_HINT": "LATENCY", **threads, **settings}
    ).create_infer_request()


def _cannot(verb: str, artifact: Artifact, bundle: Bundle, problem: Exception) -> BundleError:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip() and not line.startswith("Exception")]
    said = " ".join(lines)[-300:] or type(problem).__name__
    return BundleError(
        f"openvino {openvino.__version__} cannot {verb} {artifact.path}: {said}",
        where=bundle.folder / artifact.path,
        hint="see whether `--backend onnxruntime` runs it; if not, export it again",
    )
