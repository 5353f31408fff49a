"""Core ML packages on any machine: a reference evaluator for MIL programs, in numpy.

It runs what was saved, operation by operation, and rounds where the file says fp16. It is for proofs, not for speed: a
phone sums in its own order and its Neural Engine has its own kernels, so the last bits differ there.
"""

from __future__ import annotations

import numpy as np

from clip_edge.bundle import EXPORT_AGAIN, Artifact, Bundle
from clip_edge.errors import BundleError
from clip_edge.preprocess import Floats
from clip_edge.runtime.backends import Options, Run
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
        function = prepare(_function(bundle, artifact))
        _check_names(function, artifact)
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


def _function(bundle: Bundle, artifact: Artifact) -> Function:
    names = bundle.manifest.listed(artifact.path)
    files = {name.removeprefix(f"{artifact.path}/"): bundle.read(name, MAX_FILE_BYTES) for name in names}
    functions = read_program(files).functions
    return functions[artifact.tower if artifact.tower in functions else "main"]


def _check_names(function: Function, artifact: Artifact) -> None:
    if [*function.inputs] != [artifact.input] or function.outputs != (artifact.output,):
        raise ValueError(
            f"must map `{artifact.input}` to `{artifact.output}`; found {[*function.inputs]} and {[*function.outputs]}"
        )


def _cannot(verb: str, artifact: Artifact, bundle: Bundle, problem: Exception) -> BundleError:
    hint = "verify it with --backend coreml on a Mac" if isinstance(problem, UnknownOperationError) else EXPORT_AGAIN
    return BundleError(f"mil cannot {verb} {artifact.path}: {problem}", where=bundle.folder / artifact.path, hint=hint)
