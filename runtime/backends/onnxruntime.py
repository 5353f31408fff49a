"""ONNX Runtime on the CPU: the default everywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnxruntime as ort

from clip_edge.bundle import EXPORT_AGAIN, Artifact, Bundle
from clip_edge.errors import BundleError, UnavailableError
from clip_edge.graphs import Graph
from clip_edge.preprocess import Floats
from clip_edge.runtime import transfers
from clip_edge.runtime.backends import Options, Run, RunGraph

Provider = str | tuple[str, Mapping[str, object]]
MAX_GRAPH_BYTES = 2 * 1024**3  # what one protobuf file can hold
TENSORRT = "TensorrtExecutionProvider"
SPIN_US = "1000"  # as quick as without a limit when calls follow each other; without one a core is busy for ever


def open_tower(bundle: Bundle, artifact: Artifact, options: Options) -> Run:
    """One tower as a function from its input array to (B, D) float32, on the CPU.

    The bytes that were hashed are the bytes that are loaded.

    Raises:
        BundleError: the file was changed, is no ONNX graph, or has other inputs or outputs than the manifest says.
    """
    return open_on(["CPUExecutionProvider"], bundle, artifact, options)


def open_on(
    providers: Sequence[Provider], bundle: Bundle, artifact: Artifact, options: Options, device: str = "cpu"
) -> Run:
    """As `open_tower`, on the first of `providers`; the others take the operations that it does not know.

    `device` is where the first one wants its input, and gives its output: `cpu`, or `cuda` for the GPU of `options`.

    Raises:
        BundleError: as `open_tower`.
        UnavailableError: the first provider is not in this build, or finds no device.
    """
    session = _open_session(providers, bundle, artifact, options)
    _check_names(session, artifact.path, ([artifact.input], [artifact.output]), bundle)

    def run(array: np.ndarray) -> Floats:
        values = array.astype(artifact.input_dtype, copy=False)
        with _explained(artifact.path, bundle):
            if device == "cpu":
                (embeds,) = session.run([artifact.output], {artifact.input: values})
            else:
                embeds = run_on(session, artifact, values, device, options.device)
        return _checked(embeds, (len(array), bundle.manifest.embedding.dim), artifact.path, bundle)

    return run


def run_on(session: ort.InferenceSession, artifact: Artifact, values: np.ndarray, device: str, index: int) -> object:
    """What the session gives for (B, ...), with the copies to the device and back told to `transfers`."""
    started_s = time.perf_counter()
    given = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(values), device, index)
    copied_s = time.perf_counter() - started_s
    binding = session.io_binding()
    binding.bind_ortvalue_input(artifact.input, given)
    binding.bind_output(artifact.output, device, index)
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    done_s = time.perf_counter()
    (embeds,) = binding.copy_outputs_to_cpu()
    transfers.add(copied_s + time.perf_counter() - done_s)
    found: object = embeds
    return found


def open_graph(bundle: Bundle, graph: Graph, options: Options) -> RunGraph:
    """A graph for segmentation as a function from named inputs to named outputs, on the CPU.

    Raises:
        BundleError: as `open_tower`.
    """
    session = _open_session(["CPUExecutionProvider"], bundle, graph, options)
    outputs = [item.name for item in graph.outputs]
    _check_names(session, graph.path, ([item.name for item in graph.inputs], outputs), bundle)

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, Floats]:
        given = {item.name: inputs[item.name].astype(item.dtype, copy=False) for item in graph.inputs}
        batch = len(next(iter(given.values())))
        with _explained(graph.path, bundle):
            values = session.run(outputs, given)
        return {
            item.name: _checked(value, (batch, *item.shape[1:]), graph.path, bundle)
            for item, value in zip(graph.outputs, values, strict=True)
        }

    return run


def _open_session(
    providers: Sequence[Provider], bundle: Bundle, artifact: Artifact | Graph, options: Options
) -> ort.InferenceSession:
    """The file of an artefact in ONNX Runtime; raises as `open_on` does."""
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if wanted not in ort.get_available_providers():
        raise UnavailableError(
            f"onnxruntime {ort.__version__} was built without {wanted}",
            hint="onnxruntime and onnxruntime-gpu shadow each other: uninstall both, then install one",
        )
    graph = bundle.read(artifact.path, MAX_GRAPH_BYTES)
    try:
        session = ort.InferenceSession(graph, _session_options(options, artifact, wanted), providers=list(providers))
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
    return session


@contextmanager
def _explained(path: str, bundle: Bundle) -> Iterator[None]:
    try:
        yield
    except Exception as problem:
        raise BundleError(
            f"onnxruntime {ort.__version__} cannot run {path}: {_first_line(problem)}",
            where=bundle.folder / path,
            hint=EXPORT_AGAIN,
        ) from problem


def _session_options(options: Options, artifact: Artifact | Graph, provider: str) -> ort.SessionOptions:
    session_options = ort.SessionOptions()
    session_options.log_severity_level = 4  # problems arrive as exceptions; a library does not write to stderr
    session_options.intra_op_num_threads = options.threads or 0
    session_options.inter_op_num_threads = 1  # both towers are one chain of operations
    # An arena keeps the memory of the largest batch for ever; it saves 0 to 3 % of the time of one row, 8 % of eight.
    session_options.enable_cpu_mem_arena = False
    session_options.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spin else "0")
    session_options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
    if provider == TENSORRT:  # the graph as it was written for it: constants that are folded lose their 8 bits
        session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    elif artifact.target in ("trt", "trt-rtx"):
        # Fused kernels misread fp16 scales (onnxruntime 1.32: a cosine of -0.2 to what the pairs alone give).
        session_options.add_session_config_entry("session.disable_quant_qdq", "1")
        # The last level crashes (1.32: a segmentation fault) on the casts around fp16 in causal text towers.
        session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if artifact.precision == "int4":  # widen the weights once, while loading, and not again with every call
        session_options.add_session_config_entry("session.disable_quant_qdq", "1")
    return session_options


def _check_names(
    session: ort.InferenceSession, path: str, expected: tuple[list[str], list[str]], bundle: Bundle
) -> None:
    found = [item.name for item in session.get_inputs()], [item.name for item in session.get_outputs()]
    if found != expected:
        inputs, outputs = (", ".join(names) for names in expected)
        raise BundleError(
            f"{path} must map `{inputs}` to `{outputs}`; found {found[0]} and {found[1]}",
            where=bundle.folder / path,
            hint=EXPORT_AGAIN,
        )


def _checked(value: object, shape: tuple[int | None, ...], path: str, bundle: Bundle) -> Floats:
    """The value, when it has the shape; None stands for any size."""
    is_fit = isinstance(value, np.ndarray) and value.dtype == np.float32 and len(value.shape) == len(shape)
    if (
        not isinstance(value, np.ndarray)
        or not is_fit
        or any(want not in (None, have) for have, want in zip(value.shape, shape, strict=True))
    ):
        found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        wanted = ", ".join("any" if side is None else str(side) for side in shape)
        raise BundleError(
            f"{path} must give float32 ({wanted}); found {found}",
            where=bundle.folder / path,
            hint=EXPORT_AGAIN,
        )
    return value


def _first_line(problem: Exception) -> str:
    return str(problem).strip().partition("\n")[0][:300]
