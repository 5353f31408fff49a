"""A GPU where there is none: `gpu/driver.c` in place of the driver, and an engine with one layer in place of TensorRT.

What can be wrong in ours shows on it: a call with wrong arguments, a copy that nobody waits for, a leak. What NVIDIA's
libraries do is not tested here.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clip_edge.preprocess import Floats
from clip_edge.runtime.tensorrt.cuda import Cuda
from clip_edge.runtime.tensorrt.library import Library
from clip_edge.runtime.tensorrt.plan import PROFILES, Graph

KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@pytest.fixture(scope="session")
def driver_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver, compiled against the header of CUDA that comes with PyTorch."""
    package = importlib.util.find_spec("nvidia")
    places = [] if package is None else [Path(place) for place in package.submodule_search_locations or ()]
    headers = [header for place in places for header in place.glob("cu*/include/cuda.h")]
    if not headers or shutil.which("gcc") is None:
        pytest.skip("no cuda.h in the packages of PyTorch, or no gcc")
    file = tmp_path_factory.mktemp("gpu") / "libcuda.so.1"
    source = Path(__file__).parent / "gpu" / "driver.c"
    words = ["gcc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(file), str(source)]
    subprocess.run([*words, f"-I{headers[0].parent}"], check=True)
    return file


@dataclass
class Gpu:
    """The simulated GPU: `number` reads and sets what the driver counts."""

    driver: ctypes.CDLL
    cuda: Cuda
    graph: Graph
    library: Library
    weights: Floats

    def number(self, name: str) -> ctypes.c_int:
        return ctypes.c_int.in_dll(self.driver, name)

    def expected(self, rows: np.ndarray) -> Floats:
        found: Floats = rows.reshape(len(rows), 12) @ self.weights
        return found


@pytest.fixture
def gpu(driver_file: Path, tmp_path: Path) -> Gpu:
    """A GPU whose engines multiply by one matrix; every test has a driver of its own."""
    file = Path(shutil.copy(driver_file, tmp_path / "libcuda.so.1"))  # another file is another driver, with new counts
    driver = ctypes.CDLL(str(file))
    graph = Graph(
        path="trt/image_fp32.onnx",
        sha256="0" * 64,
        tower="image",
        precision="fp32",
        opset=18,
        input="pixel_values",
        input_dtype="float32",
        row_shape=(3, 2, 2),
        output="image_embeds",
        dim=4,
        profiles=PROFILES,
        workspace_bytes=1 << 30,
        optimization_level=3,
        tf32=False,
        layers={"fp32": 1},
        trtexec=None,
    )
    weights = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    log = SimpleNamespace(messages=[])
    trt = SimpleNamespace(Runtime=lambda log: _Runtime(driver, graph, weights, log))
    library = Library("tensorrt", "TensorRT", "11.4", trt, log)
    return Gpu(driver, Cuda(driver, 0), graph, library, weights)


@dataclass
class _Runtime:
    driver: ctypes.CDLL
    graph: Graph
    weights: Floats
    log: Any

    def deserialize_cuda_engine(self, data: bytes) -> Any:
        if data == b"engine":
            return _Engine(self)
        self.log.messages.append("magicTag mismatch")
        return None


@dataclass
class _Engine:
    runtime: _Runtime
    num_io_tensors: int = 2
    num_optimization_profiles: int = len(PROFILES)

    def get_tensor_name(self, index: int) -> str:
        return (self.runtime.graph.input, self.runtime.graph.output)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        graph = self.runtime.graph
        return (-1, *graph.row_shape) if name == graph.input else (-1, graph.dim)

    def create_execution_context(self) -> Any:
        return _Context(self.runtime)


@dataclass
class _Context:
    runtime: _Runtime
    profile: int | None = None
    shape: tuple[int, ...] = ()
    addresses: dict[str, int] = field(default_factory=dict)
    kernels: list[Any] = field(default_factory=list)  # a stream or a graph may hold them until the end

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return bool(stream)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        profile = PROFILES[self.profile or 0]
        assert name == self.runtime.graph.input
        assert profile.min <= shape[0] <= profile.max
        self.shape = tuple(shape)

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        graph, shape, addresses = self.runtime.graph, self.shape, dict(self.addresses)

        def multiply(_: object) -> None:
            rows = _at(addresses[graph.input], shape)
            _at(addresses[graph.output], (shape[0], graph.dim))[:] = rows.reshape(shape[0], -1) @ self.runtime.weights

        self.kernels.append(KERNEL(multiply))
        status = self.runtime.driver.enqueue(ctypes.c_void_p(stream), self.kernels[-1], None)
        if status:
            self.runtime.log.messages.append("a layer cannot be captured")
        return not status


def _at(address: int, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (count,)).reshape(shape)
