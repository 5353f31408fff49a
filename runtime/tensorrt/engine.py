"""A deserialised engine that embeds batches: its own stream, its own buffers, one caller at a time.

A batch of one is launched as a CUDA graph: a tower has hundreds of kernels, some of them shorter than the call that
starts them. TensorRT-RTX makes such graphs by itself.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from clip_edge.errors import BundleError, UnavailableError
from clip_edge.preprocess import Floats
from clip_edge.runtime import transfers
from clip_edge.runtime.tensorrt.cuda import Cuda
from clip_edge.runtime.tensorrt.library import Library
from clip_edge.runtime.tensorrt.plan import Graph, Profile

MARKS = 4  # before and after the copy to the GPU, before and after the copy back


class EngineTower:
    """One tower on the GPU. Any thread may call it; calls take turns, as one GPU would make them anyway."""

    def __init__(self, library: Library, cuda: Cuda, graph: Graph, engine: bytes) -> None:
        """Deserialise `engine`, which holds machine code: its hash must have been checked.

        Raises:
            UnavailableError: it was built for another GPU or library.
            BundleError: it has other inputs or outputs than the plan says.
        """
        cuda.use()
        self._library, self._cuda, self._graph = library, cuda, graph
        self._runtime = library.trt.Runtime(library.log)
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise UnavailableError(
                f"{library.title} {library.version} cannot load the engine of {graph.path}: {library.last_error()}",
                hint="an engine fits one library and one kind of GPU: `clip-edge build BUNDLE` makes one for this one",
            )
        self._check_tensors()
        self._stream = cuda.stream()
        buffers: list[int] = []
        self._marks: list[int] = []
        self._captured: dict[int, int | None] = {}  # profile -> its CUDA graph; None: it cannot be captured
        weakref.finalize(self, _release, cuda, self._stream, buffers, self._marks, self._captured)
        self._contexts = [self._context(index) for index in range(len(graph.profiles))]
        largest = max(profile.max for profile in graph.profiles)
        itemsize = np.dtype(graph.input_dtype).itemsize
        buffers.append(cuda.allocate(largest * int(np.prod(graph.row_shape)) * itemsize))
        buffers.append(cuda.allocate(largest * graph.dim * 4))
        self._input, self._output = buffers
        self._marks += [cuda.event() for _ in range(MARKS)]
        self._lock = threading.Lock()

    def __call__(self, array: np.ndarray) -> Floats:
        """(B, ...) -> (B, D); more rows than the largest profile run in parts."""
        rows = np.ascontiguousarray(array, dtype=self._graph.input_dtype)
        found: Floats = np.empty((len(rows), self._graph.dim), np.float32)
        with self._lock:
            self._cuda.use()
            for start, stop in parts(len(rows), self._graph.profiles):
                self._run(rows[start:stop], found[start:stop])
        return found

    def layer_information(self) -> str:
        """The engine inspector's JSON, with the types that the optimal batch gives."""
        trt, graph = self._library.trt, self._graph
        inspector = self._engine.create_engine_inspector()
        profile = len(graph.profiles) - 1
        context = self._contexts[profile]
        context.set_input_shape(graph.input, (graph.profiles[profile].opt, *graph.row_shape))
        inspector.execution_context = context  # without one, types are "N/A due to dynamic shapes"
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def _run(self, rows: np.ndarray, found: Floats) -> None:
        cuda, stream, marks = self._cuda, self._stream, self._marks
        cuda.record(marks[0], stream)
        cuda.to_device(self._input, rows, stream)
        cuda.record(marks[1], stream)
        self._launch(choose(len(rows), self._graph.profiles), rows.shape)
        cuda.record(marks[2], stream)
        cuda.to_host(found, self._output, stream)
        cuda.record(marks[3], stream)
        cuda.synchronize(stream)
        transfers.add(cuda.elapsed_s(marks[0], marks[1]) + cuda.elapsed_s(marks[2], marks[3]))

    def _launch(self, index: int, shape: tuple[int, ...]) -> None:
        """The layers, on the stream. Only where a profile has one batch size does nothing that was captured change."""
        captured = self._captured.get(index)
        if captured is not None:
            self._cuda.launch(captured, self._stream)
            return
        context, graph, profile = self._contexts[index], self._graph, self._graph.profiles[index]
        context.set_input_shape(graph.input, shape)
        context.set_tensor_address(graph.input, self._input)
        context.set_tensor_address(graph.output, self._output)
        if not context.execute_async_v3(self._stream):
            self._cuda.synchronize(self._stream)
            raise UnavailableError(
                f"{self._library.title} cannot run {graph.path}: {self._library.last_error()}",
                hint="close other programs on the GPU, or build the engine again with `clip-edge build BUNDLE`",
            )
        if profile.min == profile.max and not self._library.is_rtx and index not in self._captured:
            self._captured[index] = self._capture(context)  # the first call has loaded the kernels

    def _capture(self, context: Any) -> int | None:
        """The layers as a CUDA graph, not run; None where one of them cannot be captured."""
        self._cuda.begin_capture(self._stream)
        is_recorded = context.execute_async_v3(self._stream)
        try:
            captured = self._cuda.end_capture(self._stream)  # also after a failure: it ends the capture
        except UnavailableError:
            captured = None
        if captured is not None and not is_recorded:
            self._cuda.free_graph(captured)
            captured = None
        if captured is None:
            self._library.last_error()  # it stopped nothing, and must not explain a later failure
        return captured

    def _context(self, profile: int) -> Any:
        context = self._new_context()
        if context is None or not context.set_optimization_profile_async(profile, self._stream):
            raise UnavailableError(
                f"{self._library.title} cannot prepare {self._graph.path}: {self._library.last_error()}",
                hint="close other programs on the GPU: an engine needs memory for its layers",
            )
        self._cuda.synchronize(self._stream)
        return context

    def _new_context(self) -> Any:
        if not self._library.is_rtx:
            return self._engine.create_execution_context()
        settings = self._engine.create_runtime_config()
        settings.cuda_graph_strategy = self._library.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self._engine.create_execution_context(settings)

    def _check_tensors(self) -> None:
        engine, graph = self._engine, self._graph
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        shapes = [tuple(engine.get_tensor_shape(name)) for name in names]
        expected = [(-1, *graph.row_shape), (-1, graph.dim)]
        profiles = engine.num_optimization_profiles
        if (names, shapes) != ([graph.input, graph.output], expected) or profiles != len(graph.profiles):
            raise BundleError(
                f"the engine of {graph.path} must map {graph.input} {expected[0]} to {graph.output} {expected[1]} with "
                f"{len(graph.profiles)} profiles; found {names}, {shapes}, {profiles}"
            )


def choose(rows: int, profiles: Sequence[Profile]) -> int:
    """The index of the profile for a batch: of those that allow it, the one whose best batch is nearest."""
    fitting = [index for index, profile in enumerate(profiles) if profile.min <= rows <= profile.max]
    if not fitting:
        raise BundleError(f"no profile of the engine allows a batch of {rows}", hint="export the model again")
    return min(fitting, key=lambda index: abs(profiles[index].opt - rows))


def parts(rows: int, profiles: Sequence[Profile]) -> list[tuple[int, int]]:
    """Ranges that cover `rows`, none larger than the largest profile allows."""
    largest = max(profile.max for profile in profiles)
    return [(start, min(start + largest, rows)) for start in range(0, rows, largest)]


def _release(
    cuda: Cuda, stream: int, buffers: Sequence[int], marks: Sequence[int], captured: dict[int, int | None]
) -> None:
    cuda.use()
    for graph in captured.values():
        if graph is not None:
            cuda.free_graph(graph)
    for mark in marks:
        cuda.free_event(mark)
    for address in buffers:
        cuda.free(address)
    cuda.free_stream(stream)
