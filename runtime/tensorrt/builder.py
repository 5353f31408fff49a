"""From a strongly typed ONNX graph to an engine, and what the parsed network says about every layer."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from clip_edge.errors import BundleError, ExportError, unknown_name
from clip_edge.runtime.tensorrt.library import Library
from clip_edge.runtime.tensorrt.plan import Graph, Part

PRECISIONS = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8", "INT4": "int4"}


@dataclass(frozen=True)
class Network:
    """A parsed graph. `layers` maps each convolution and matrix product, by its ONNX name, to its precision."""

    library: Library
    builder: Any
    network: Any
    layers: dict[str, str]
    parse_s: float

    @property
    def counts(self) -> dict[str, int]:
        """How many convolutions and matrix products there are in each precision."""
        return dict(sorted(Counter(self.layers.values()).items()))


@dataclass(frozen=True)
class Built:
    """An engine with what it took to make it; `timing` is the new timing cache."""

    engine: bytes
    timing: bytes | None
    build_s: float


def parse(library: Library, data: bytes, name: str) -> Network:
    """Read a graph as a strongly typed network.

    Raises:
        ExportError: the parser refuses it; the first reason is in the message.
    """
    trt = library.trt
    builder = trt.Builder(library.log)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, library.log)
    started_s = time.perf_counter()
    if not parser.parse(data) or network.num_layers == 0:  # no bytes are a valid, empty graph
        reason = parser.get_error(0).desc() if parser.num_errors else library.last_error()
        node = f" at node `{parser.get_error(0).node_name()}`" if parser.num_errors else ""
        raise ExportError(
            f"{library.title} {library.version} cannot parse {name}{node}: {' '.join(reason.split())[:300]}",
            hint="try another precision, and report this together with the student's model.json",
        )
    return Network(library, builder, network, _layers(trt, network), time.perf_counter() - started_s)


def check_contract(network: Network, graph: Graph | Part) -> None:
    """The parsed network's inputs and outputs against the plan.

    Raises:
        BundleError: names, types or shapes differ.
    """
    net, trt = network.network, network.library.trt
    expected = [
        (item.name, getattr(trt, item.dtype), tuple(-1 if side is None else side for side in item.shape))
        for item in graph.tensors
    ]
    tensors = [net.get_input(i) for i in range(net.num_inputs)] + [net.get_output(i) for i in range(net.num_outputs)]
    found = [(tensor.name, tensor.dtype, tuple(tensor.shape)) for tensor in tensors]
    if found != expected:
        raise BundleError(f"{graph.path} must have the inputs and outputs {expected}; found {found}")


def build_engine(
    network: Network, graph: Graph | Part, *, capability: str | None = None, timing: bytes | None = None
) -> Built:
    """Build for the GPU of this machine, or with TensorRT-RTX for the named compute capability (`sm89`).

    Raises:
        UsageError: TensorRT-RTX knows no such capability (the nearest is named).
        ExportError: the builder fails; the reason is in the message.
    """
    trt, library = network.library.trt, network.library
    config = network.builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, graph.workspace_bytes)
    config.builder_optimization_level = graph.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names of ONNX nodes, for the check layer by layer
    if not graph.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)  # else fp32 products are rounded to 10 bits without a word
    for profile in graph.profiles:
        chosen = network.builder.create_optimization_profile()
        for name, shapes in graph.shapes(profile).items():
            chosen.set_shape(name, *shapes)
        config.add_optimization_profile(chosen)
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(library, capability), 0)
    cache = None
    if not library.is_rtx:
        cache = config.create_timing_cache(timing or b"")
        config.set_timing_cache(cache, True)  # of another device: start again
    started_s = time.perf_counter()
    engine = network.builder.build_serialized_network(network.network, config)
    build_s = time.perf_counter() - started_s
    if engine is None:
        raise ExportError(
            f"{library.title} {library.version} cannot build {graph.path}"
            f"{f' for {capability}' if capability else ''}: {library.last_error()}",
            hint=_advice(capability, graph),
        )
    return Built(bytes(engine), None if cache is None else bytes(config.get_timing_cache().serialize()), build_s)


def capabilities(library: Library) -> list[str]:
    """The compute capabilities that TensorRT-RTX builds for, as `sm89`."""
    names = library.trt.ComputeCapability.__members__
    return sorted((name.lower() for name in names if name.startswith("SM")), key=lambda name: int(name[2:]))


def _capability(library: Library, name: str) -> Any:
    if name not in capabilities(library):
        raise unknown_name("compute capability", name, capabilities(library))
    return library.trt.ComputeCapability.__members__[name.upper()]


def _advice(capability: str | None, graph: Graph | Part) -> str:
    if capability == "sm75" and graph.precision == "fp32":
        return "Turing (sm75) has no fp32 matrix products in TensorRT-RTX: export fp16 for it, or leave sm75 out"
    return "give less memory with --workspace, close other programs, or add swap"


def _layers(trt: Any, network: Any) -> dict[str, str]:
    """In a strongly typed network the type of a product's input decides: behind a Q/DQ pair it is the small type."""
    producers = {}
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        for k in range(layer.num_outputs):
            producers[layer.get_output(k).name] = layer
    products = (trt.LayerType.CONVOLUTION, trt.LayerType.MATRIX_MULTIPLY)
    found = {}
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        if layer.type in products:
            found[layer.name] = _precision(trt, layer.get_input(0), producers)
    return found


def _precision(trt: Any, tensor: Any, producers: dict[str, Any]) -> str:
    producer = producers.get(tensor.name)
    while producer is not None and producer.type == trt.LayerType.SHUFFLE:
        tensor = producer.get_input(0)
        producer = producers.get(tensor.name)
    if producer is not None and producer.type == trt.LayerType.DEQUANTIZE:
        tensor = producer.get_input(0)
    return PRECISIONS.get(str(tensor.dtype).rpartition(".")[2], str(tensor.dtype))
