"""A deserialised engine that embeds batches: its own stream, its own buffers, one caller at a time."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from clip_edge.errors import BundleError, UnavailableError
from clip_edge.preprocess import Floats
from clip_edge.runtime.tensorrt.cuda import Cuda
from clip_edge.runtime.tensorrt.library import Library
from clip_edge.runtime.tensorrt.plan import Graph, Profile


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
        self._contexts = [self._context(index) for index in range(len(graph.profiles))]
        largest = max(profile.max for profile in graph.profiles)
        itemsize = np.dtype(graph.input_dtype).itemsize
        self._input = cuda.allocate(largest * int(np.prod(graph.row_shape)) * itemsize)
        self._output = cuda.allocate(largest * graph.dim * 4)
        weakref.finalize(self, _release, cuda, self._stream, self._input, self._output)
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
        context = self._contexts[choose(len(rows), self._graph.profiles)]
        context.set_input_shape(self._graph.input, rows.shape)
        context.set_tensor_address(self._graph.input, self._input)
        context.set_tensor_address(self._graph.output, self._output)
        self._cuda.to_device(self._input, rows, self._stream)
        if not context.execute_async_v3(self._stream):
            self._cuda.synchronize(self._stream)
            raise UnavailableError(
                f"{self._library.title} cannot run {self._graph.path}: {self._library.last_error()}",
                hint="close other programs on the GPU, or build the engine again with `clip-edge build BUNDLE`",
            )
        self._cuda.to_host(found, self._output, self._stream)
        self._cuda.synchronize(self._stream)

    def _context(self, profile: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None or not context.set_optimization_profile_async(profile, self._stream):
            raise UnavailableError(
                f"{self._library.title} cannot prepare {self._graph.path}: {self._library.last_error()}",
                hint="close other programs on the GPU: an engine needs memory for its layers",
            )
        self._cuda.synchronize(self._stream)
        return context

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


def _release(cuda: Cuda, stream: int, *buffers: int) -> None:
    cuda.use()
    for address in buffers:
        cuda.free(address)
    cuda.free_stream(stream)
