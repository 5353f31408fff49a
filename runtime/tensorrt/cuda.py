"""The few calls of the CUDA driver that running an engine takes: its interface is stable, and it is always there."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from clip_edge.errors import UnavailableError

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
NEEDS_GPU = "run this on a machine with an NVIDIA GPU and its driver; `nvidia-smi` says what is there"
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for other people's work on the default stream
THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do meanwhile does not spoil a capture
OUT_OF_MEMORY = 2


@dataclass(frozen=True)
class Device:
    """One GPU. `capability` as TensorRT-RTX names it: `sm87`."""

    index: int
    name: str
    capability: str
    total_bytes: int
    free_bytes: int


class Cuda:
    """The driver with one GPU's primary context, which TensorRT uses too. Make it with `open_cuda`."""

    def __init__(self, driver: ctypes.CDLL, index: int) -> None:
        self._driver = driver
        self._call("cuInit", 0)
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if not 0 <= index < count.value:
            raise UnavailableError(f"no GPU number {index}: this machine has {count.value}", hint=NEEDS_GPU)
        self.index = index
        self._handle = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._handle), index)
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._handle)

    def use(self) -> None:
        """Make the GPU current for the calling thread."""
        self._call("cuCtxSetCurrent", self._context)

    def device(self) -> Device:
        """What the GPU is, and how much of its memory is free now."""
        self.use()
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), self._handle)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        capability = f"sm{self._attribute(MAJOR)}{self._attribute(MINOR)}"
        return Device(self.index, name.value.decode(errors="replace"), capability, total.value, free.value)

    def stream(self) -> int:
        """A stream of its own."""
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), NON_BLOCKING)
        return int(stream.value or 0)

    def allocate(self, size_bytes: int) -> int:
        """Memory on the GPU."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def free_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._call("cuStreamDestroy_v2", ctypes.c_void_p(stream))

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        """Copy a contiguous array to the GPU; it must live until the stream is synchronised."""
        size = ctypes.c_size_t(array.nbytes)
        host = ctypes.c_void_p(array.ctypes.data)
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), host, size, ctypes.c_void_p(stream))

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        """Copy from the GPU into a contiguous array, which is filled once the stream is synchronised."""
        size = ctypes.c_size_t(array.nbytes)
        host = ctypes.c_void_p(array.ctypes.data)
        self._call("cuMemcpyDtoHAsync_v2", host, ctypes.c_uint64(address), size, ctypes.c_void_p(stream))

    def synchronize(self, stream: int) -> None:
        """Wait until everything on the stream is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def event(self) -> int:
        """A mark that can be put into a stream, and says when the GPU came by."""
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), 0)
        return int(event.value or 0)

    def record(self, event: int, stream: int) -> None:
        """Put the mark behind everything that is on the stream."""
        self._call("cuEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def elapsed_s(self, start: int, end: int) -> float:
        """Seconds between two marks that the GPU has passed, to half a microsecond."""
        milliseconds = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(milliseconds), ctypes.c_void_p(start), ctypes.c_void_p(end))
        return milliseconds.value / 1e3

    def free_event(self, event: int) -> None:
        """Give a mark back."""
        self._call("cuEventDestroy_v2", ctypes.c_void_p(event))

    def begin_capture(self, stream: int) -> None:
        """From now on, work on the stream is written down and not done."""
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """What was written down, as a CUDA graph for `launch`: one call in place of one for every kernel."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        try:
            flags = ctypes.c_ulonglong(0)
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, flags)
        finally:
            self._call("cuGraphDestroy", graph)
        return int(executable.value or 0)

    def launch(self, graph: int, stream: int) -> None:
        """Do everything in the graph, on the stream."""
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def free_graph(self, graph: int) -> None:
        """Give a graph back."""
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, self._handle)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(status, ctypes.byref(text))
            reason = (text.value or b"unknown").decode(errors="replace")
            hint = "close other programs on the GPU, or use smaller batches" if status == OUT_OF_MEMORY else NEEDS_GPU
            raise UnavailableError(f"the GPU cannot be used: {name} says `{reason}` ({status})", hint=hint)


@cache
def open_cuda(index: int = 0) -> Cuda:
    """The GPU of that number, opened once.

    Raises:
        UnavailableError: no driver, no such GPU, or the driver refuses.
    """
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError as problem:
        raise UnavailableError(f"no NVIDIA driver here: {problem}", hint=NEEDS_GPU) from problem
    return Cuda(driver, index)
