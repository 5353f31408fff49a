"""fp16 written into a graph, for every target that reads ONNX: one type for each value, and casts that can be seen.

A target says which nodes stay in fp32 (`Rules`), for what its runtimes can do differs; how fp16 is written does not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from clip_edge.console import SILENT, Console
from clip_edge.export.quantize.graph import Graph, value_infos
from clip_edge.export.quantize.ranges import extremes
from clip_edge.export.rows import Rows

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
NEAR_LARGEST = LARGEST / 4  # of an activation: what is measured is not the worst that will ever come
MASKED = -1e4  # exp(-1e4) is 0 in every type, and the number fits into all of them
INFINITE = -1e30  # what masks are made of in the field: -inf, the least fp32 number, -1e30

PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear"})
SHAPES = frozenset({"Shape", "Size"})  # take any type and give int64
LIMITS = frozenset({"Clip", "Max", "Min"})  # where infinity means "no limit"
WAVES = frozenset({"Cos", "Sin"})  # of places, in a mask decoder
MASKS = frozenset({"Add", "Where"})  # what brings a mask to the scores of attention
# Sums over a row, and functions whose result leaves the range of fp16 for inputs inside it.
UNSAFE = frozenset(
    {
        "Softmax", "LogSoftmax", "LayerNormalization", "GroupNormalization", "InstanceNormalization",
        "BatchNormalization", "LpNormalization", "GlobalAveragePool", "AveragePool", "CumSum",
        "ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceLogSumExp",
        "Pow", "Sqrt", "Exp", "Log", "Reciprocal", "Resize", "ConstantOfShape", "Range", "Cast", *WAVES,
    }
)  # fmt: skip


@dataclass(frozen=True)
class Rules:
    """Which nodes a target lets compute in fp16; what makes an output, lengths and angles never do."""

    operations: frozenset[str] | None = None  # no others; None: all but `UNSAFE`
    largest: float = LARGEST  # of a weight
    scaled_factors: bool = True  # the scalings of the two factors of a product, as attention has them


def to_half(model: onnx.ModelProto, rules: Rules, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A copy of an fp32 graph in fp16; input and output keep fp32, and so do the nodes named in `keep`.

    Q/DQ pairs (operation set 19) get fp16 scales. `finite_masks` comes first.
    """
    graph = Graph(model)
    floats = _all_floats(model)
    full = {*keep, *_full(graph, rules, floats)}
    halves = {value for node in graph.nodes if node.name not in full for value in node.output if value in floats}
    for node in list(graph.nodes):
        if node.op_type in SHAPES:
            continue
        for place, name in enumerate(node.input):
            if name in floats:
                is_scale = node.op_type in ROUNDING and place == 1
                node.input[place] = _as(graph, name, name in halves, node.name not in full, is_scale=is_scale)
    return graph.finish()


def half_nodes(model: onnx.ModelProto, rules: Rules, keep: Collection[str] = ()) -> list[str]:
    """The names of the nodes that `to_half` lets compute in fp16."""
    graph = Graph(model)
    floats = _all_floats(model)
    full = {*keep, *_full(graph, rules, floats)}
    return [node.name for node in graph.nodes if node.name not in full and floats.intersection(node.output)]


def finite_masks(graph: Graph) -> None:
    """Replace minus infinity and its like, which hide a token, by a number that fp16 holds: else NaN comes of it.

    fp32 gives the same embedding with it.
    """
    for node in graph.nodes:
        limit, form = (-NEAR_LARGEST, "bounded") if node.op_type in MASKS else (INFINITE, "finite")
        for place, name in enumerate(node.input):
            if node.op_type in LIMITS or name not in graph.constants:
                continue
            value = graph.array(name)
            if value.dtype == np.float32 and value.size and value.min() <= limit:
                node.input[place] = graph.add_constant(f"{name}_{form}", np.where(value <= limit, MASKED, value))


def overflowing(model: onnx.ModelProto, rows: Rows, console: Console = SILENT) -> set[str]:
    """The nodes of an fp32 graph that read or make a value near the end of fp16's range, on any of `rows`."""
    floats = _floats(model)
    made = [value for node in model.graph.node for value in node.output if value in floats]
    seen = extremes(model, made, rows, console=console)
    large = {name for name, (low, high) in seen.items() if max(-low, high) > NEAR_LARGEST}
    return {node.name for node in model.graph.node if large.intersection([*node.input, *node.output])}


def _all_floats(model: onnx.ModelProto) -> set[str]:
    """The values and constants that are fp32."""
    constants = {item.name for item in model.graph.initializer if item.data_type == TensorProto.FLOAT}
    return constants | _floats(model)


def _floats(model: onnx.ModelProto) -> set[str]:
    """The values that are fp32."""
    values = value_infos(model)
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}


def _as(graph: Graph, name: str, is_half: bool, wanted_half: bool, *, is_scale: bool) -> str:
    """The name under which a value, or a constant, is found in the wanted type."""
    if wanted_half == is_half:
        return name
    if name not in graph.constants:
        cast = f"{name}_as_{'fp16' if wanted_half else 'fp32'}"
        if not any(cast in node.output for node in graph.nodes):
            graph.add("Cast", [name], cast, to=TensorProto.FLOAT16 if wanted_half else TensorProto.FLOAT)
        return cast
    values = graph.array(name).astype(np.float16)
    if is_scale:
        values = np.maximum(values, np.float16(SMALLEST))  # of a dead channel: TensorRT refuses a scale of 0
    return graph.add_constant(f"{name}_as_fp16", values)


def _full(graph: Graph, rules: Rules, floats: Collection[str]) -> set[str]:
    """The names of the nodes that stay in fp32."""
    makers = graph.makers()
    full = {*_length(graph), *_angles(graph), *(makers[name].name for name in graph.outputs)}
    users = graph.users()
    for node in graph.nodes:
        constants = [graph.array(name) for name in node.input if name in graph.constants and name in floats]
        allowed = node.op_type not in UNSAFE if rules.operations is None else node.op_type in rules.operations
        allowed &= rules.scaled_factors or not _scales_a_factor(graph, node, users.get(node.output[0], []))
        if not (allowed and all(_fits(value, rules.largest) for value in constants)):
            full.add(node.name)
    return full


def _fits(constant: np.ndarray, largest: float) -> bool:
    """Whether fp16 holds every value, and no single number (such as an epsilon) becomes 0."""
    values = np.abs(constant)
    if values.size == 0:
        return True
    return bool(values.max() <= largest and not (values.size == 1 and 0 < values.max() < SMALLEST))


def _scales_a_factor(graph: Graph, node: onnx.NodeProto, users: Sequence[onnx.NodeProto]) -> bool:
    single = any(name in graph.constants and graph.array(name).size == 1 for name in node.input)
    return node.op_type == "Mul" and single and any(user.op_type == "MatMul" for user in users)


def _length(graph: Graph) -> set[str]:
    """What an output is computed from without another product: the norm that makes its length 1."""
    return _behind(graph, graph.outputs, PRODUCTS)


def _angles(graph: Graph) -> set[str]:
    """What computes an angle: many turns of a circle leave fp16 no digits for the place on it."""
    return _behind(graph, [name for node in graph.nodes if node.op_type in WAVES for name in node.input], frozenset())


def _behind(graph: Graph, values: Sequence[str], until: frozenset[str]) -> set[str]:
    """The names of the nodes that `values` are computed from, back to operations of `until`, without these."""
    makers = graph.makers()
    found: set[str] = set()
    waiting = list(values)
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.op_type not in until and node.name not in found:
            found.add(node.name)
            waiting += node.input
    return found
