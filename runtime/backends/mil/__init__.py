"""Core ML packages on any machine: a reference evaluator for MIL programs, in numpy.

It runs what was saved, operation by operation, and rounds where the file says fp16. It is for proofs, not for speed: a
phone sums in its own order and its Neural Engine has its own kernels, so the last bits differ there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from clip_edge.bundle import EXPORT_AGAIN, Artifact, Bundle
from clip_edge.errors import BundleError
from clip_edge.golden_graphs import PIXELS
from clip_edge.graphs import Graph
from clip_edge.preprocess import Floats
from clip_edge.runtime.backends import Options, Run, RunGraph
from clip_edge.runtime.backends.mil.evaluate import DAMAGED, UnknownOperationError, prepare, run
from clip_edge.runtime.backends.mil.program import Function, read_program
from clip_edge.runtime.backends.pixels import denormalize

MAX_FILE_BYTES = 4 * 1024**3


def open_tower(bundle: Bundle, artifact: Artifact, options: Options) -> Run:
    """One tower as a function from its input array to (B, D) float32; rows of a larger batch run one by one.

    The bytes that were hashed are the bytes that are loaded. numpy chooses its own threads.

    Raises:
        BundleError: a file was changed, is no ML program, or needs an operation that the evaluator does not know.
    """
    del options
    try:
        functions = _functions(bundle, artifact.path)
        function = prepare(functions[artifact.tower if artifact.tower in functions else "main"])
        _check_names(function, [artifact.input], [artifact.output])
    except DAMAGED as problem:
        raise _cannot("load", artifact, bundle, problem) from problem

    spec, takes_picture = bundle.manifest.image.preprocess, artifact.input_dtype == "uint8"

    def call(array: np.ndarray) -> Floats:
        given = denormalize(array, spec) if takes_picture else array
        try:
            rows = [run(function, {artifact.input: row[None]})[artifact.output] for row in given]
        except DAMAGED as problem:
            raise _cannot("run", artifact, bundle, problem) from problem
        embeds: Floats = np.concatenate(rows).astype(np.float32)
        return embeds

    return call


def open_graph(bundle: Bundle, graph: Graph, options: Options) -> RunGraph:
    """A graph for segmentation as a function from named inputs to named outputs; rows run one by one.

    An encoder that takes pictures is given `pixel_values`, as every other.

    Raises:
        BundleError: as `open_tower`.
    """
    del options
    inputs, outputs = [item.name for item in graph.inputs], [item.name for item in graph.outputs]
    try:
        function = prepare(_functions(bundle, graph.path)["main"])
        _check_names(function, inputs, outputs)
    except DAMAGED as problem:
        raise _cannot("load", graph, bundle, problem) from problem
    spec = bundle.manifest.image.preprocess

    def call(given: Mapping[str, np.ndarray]) -> dict[str, Floats]:
        arrays = {
            item.name: denormalize(given[PIXELS], spec) if item.dtype == "uint8" else given[item.name]
            for item in graph.inputs
        }
        count = len(next(iter(arrays.values())))
        try:
            rows = [run(function, {name: array[i : i + 1] for name, array in arrays.items()}) for i in range(count)]
        except DAMAGED as problem:
            raise _cannot("run", graph, bundle, problem) from problem
        return {name: np.concatenate([row[name] for row in rows]).astype(np.float32) for name in outputs}

    return call


def _functions(bundle: Bundle, path: str) -> Mapping[str, Function]:
    names = bundle.manifest.listed(path)
    files = {name.removeprefix(f"{path}/"): bundle.read(name, MAX_FILE_BYTES) for name in names}
    return read_program(files).functions


def _check_names(function: Function, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    if [*function.inputs] != [*inputs] or [*function.outputs] != [*outputs]:
        wanted, given = (", ".join(names) for names in (inputs, outputs))
        raise ValueError(f"must map `{wanted}` to `{given}`; found {[*function.inputs]} and {[*function.outputs]}")


def _cannot(verb: str, artifact: Artifact | Graph, bundle: Bundle, problem: Exception) -> BundleError:
    hint = "verify it with --backend coreml on a Mac" if isinstance(problem, UnknownOperationError) else EXPORT_AGAIN
    return BundleError(f"mil cannot {verb} {artifact.path}: {problem}", where=bundle.folder / artifact.path, hint=hint)
