"""ONNX Runtime on the CPU: the default everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort

from clip_edge.bundle import EXPORT_AGAIN, Artifact, Bundle
from clip_edge.errors import BundleError, UnavailableError
from clip_edge.preprocess import Floats
from clip_edge.runtime.backends import Options, Run

Provider = str | tuple[str, Mapping[str, object]]
MAX_GRAPH_BYTES = 2 * 1024**3  # what one protobuf file can hold


def open_tower(bundle: Bundle, artifact: Artifact, options: Options) -> Run:
    """One tower as a function from its input array to (B, D) float32, on the CPU.

    The bytes that were hashed are the bytes that are loaded.

    Raises:
        BundleError: the file was changed, is no ONNX graph, or has other inputs or outputs than the manifest says.
    """
    return open_on(["CPUExecutionProvider"], bundle, artifact, options)


def open_on(providers: Sequence[Provider], bundle: Bundle, artifact: Artifact, options: Options) -> Run:
    """As `open_tower`, on the first of `providers`; the others take the operations that it does not know.

    Raises:
        BundleError: as `open_tower`.
        UnavailableError: the first provider is not in this build, or finds no device.
    """
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if wanted not in ort.get_available_providers():
        raise UnavailableError(
            f"onnxruntime {ort.__version__} was built without {wanted}",
            hint="onnxruntime and onnxruntime-gpu shadow each other: uninstall both, then install one",
        )
    graph = bundle.read(artifact.path, MAX_GRAPH_BYTES)
    try:
        session = ort.InferenceSession(graph, _session_options(options, artifact), providers=list(providers))
    except Exception as problem:  # onnxruntime's errors share no base class
        raise BundleError(
            f"onnxruntime {ort.__version__} cannot load {artifact.path}: {_first_line(problem)}",
            where=bundle.folder / artifact.path,
            hint=EXPORT_AGAIN,
        ) from problem
    if session.get_providers()[0] != wanted:  # onnxruntime falls back to the CPU and goes on
        raise UnavailableError(
            f"onnxruntime {ort.__version__} did not open {wanted}; it took {session.get_providers()[0]}",
            hint="`clip-edge doctor` tells what it lacks",
        )
    _check_names(session, artifact, bundle)

    def run(array: np.ndarray) -> Floats:
        try:
            (embeds,) = session.run([artifact.output], {artifact.input: array.astype(artifact.input_dtype, copy=False)})
        except Exception as problem:
            raise BundleError(
                f"onnxruntime {ort.__version__} cannot run {artifact.path}: {_first_line(problem)}",
                where=bundle.folder / artifact.path,
                hint=EXPORT_AGAIN,
            ) from problem
        return _checked(embeds, len(array), artifact, bundle)

    return run


def _session_options(options: Options, artifact: Artifact) -> ort.SessionOptions:
    session_options = ort.SessionOptions()
    session_options.log_severity_level = 4  # problems arrive as exceptions; a library does not write to stderr
    session_options.intra_op_num_threads = options.threads or 0
    session_options.inter_op_num_threads = 1  # both towers are one chain of operations
    session_options.enable_cpu_mem_arena = False  # it keeps the memory of the largest batch for ever, and saves no time
    session_options.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spin else "0")
    if artifact.target in ("trt", "trt-rtx"):
        # Fused kernels misread fp16 scales (onnxruntime 1.32: a cosine of -0.2 to what the pairs alone give).
        session_options.add_session_config_entry("session.disable_quant_qdq", "1")
    if artifact.precision == "int4":  # widen the weights once, while loading, and not again with every call
        session_options.add_session_config_entry("session.disable_quant_qdq", "1")
    return session_options


def _check_names(session: ort.InferenceSession, artifact: Artifact, bundle: Bundle) -> None:
    found = [item.name for item in session.get_inputs()], [item.name for item in session.get_outputs()]
    if found != ([artifact.input], [artifact.output]):
        raise BundleError(
            f"{artifact.path} must map `{artifact.input}` to `{artifact.output}`; found {found[0]} and {found[1]}",
            where=bundle.folder / artifact.path,
            hint=EXPORT_AGAIN,
        )


def _checked(embeds: object, rows: int, artifact: Artifact, bundle: Bundle) -> Floats:
    dim = bundle.manifest.embedding.dim
    if not isinstance(embeds, np.ndarray) or embeds.dtype != np.float32 or embeds.shape != (rows, dim):
        found = f"{embeds.dtype} {embeds.shape}" if isinstance(embeds, np.ndarray) else type(embeds).__name__
        raise BundleError(
            f"{artifact.path} must give float32 ({rows}, {dim}); found {found}",
            where=bundle.folder / artifact.path,
            hint=EXPORT_AGAIN,
        )
    return embeds


def _first_line(problem: Exception) -> str:
    return str(problem).strip().partition("\n")[0][:300]
