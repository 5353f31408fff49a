"""fp16 written into a graph: every tensor has one type, casts are explicit, and what overflows stays in fp32."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Sums over a row, and functions whose result leaves the range of fp16 for inputs inside it.
FULL = frozenset(
    {
        "Softmax", "LogSoftmax", "LayerNormalization", "GroupNormalization", "InstanceNormalization",
        "BatchNormalization", "LpNormalization", "GlobalAveragePool", "AveragePool", "CumSum",
        "ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceLogSumExp",
        "Pow", "Sqrt", "Exp", "Log", "Reciprocal", "Resize", "ConstantOfShape", "Range", "Cast",
    }
)  # fmt: skip
PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear"})
SHAPES = frozenset({"Shape", "Size"})  # take any type and give int64
LIMITS = frozenset({"Clip", "Max", "Min"})  # where infinity means "no limit"
LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
MASKED = -1e4  # exp(-1e4) is 0 in every type, and the number fits into all of them
INFINITE = -1e30  # what masks are made of in the field: -inf, the least fp32 number, -1e30


def finite_masks(model: onnx.ModelProto) -> None:
    """Replace minus infinity, and the least fp32 numbers, by one that fp16 holds: else a masked row becomes NaN."""
    limits = {name for node in model.graph.node if node.op_type in LIMITS for name in node.input}
    for constant in model.graph.initializer:
        if constant.data_type != TensorProto.FLOAT or constant.name in limits:
            continue
        values = numpy_helper.to_array(constant)
        if values.size and values.min() <= INFINITE:
            constant.CopyFrom(
                numpy_helper.from_array(np.where(values <= INFINITE, MASKED, values).astype(np.float32), constant.name)
            )


def inline_constants(model: onnx.ModelProto) -> None:
    """Turn `Constant` nodes into initializers, so that there is one kind of constant."""
    kept = []
    for node in model.graph.node:
        value = next((item.t for item in node.attribute if item.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            value.name = node.output[0]
            model.graph.initializer.append(value)
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an fp32 graph in fp16; input and output keep fp32, and so does all behind the last product.

    Q/DQ pairs (operation set 19) get fp16 scales. `finite_masks` and `inline_constants` come first.
    """
    return _Rewrite(model).run()


class _Rewrite:
    """One pass over the nodes in order; `types` holds what each tensor really is by now."""

    def __init__(self, model: onnx.ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
        self.floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.constants = {item.name: item for item in model.graph.initializer if item.data_type == TensorProto.FLOAT}
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.tail = _behind_last_product(model.graph)
        self.types: dict[str, int] = {
            value.name: TensorProto.FLOAT for value in model.graph.input if value.name in self.floats
        }
        self.scales = {node.input[1] for node in model.graph.node if node.op_type in ROUNDING}
        self.nodes: list[onnx.NodeProto] = []
        self.halves: dict[str, onnx.TensorProto] = {}

    def run(self) -> onnx.ModelProto:
        graph = self.model.graph
        for node in graph.node:
            self._convert(node)
        del graph.node[:]
        graph.node.extend(self.nodes)
        used = {name for node in graph.node for name in node.input}
        kept = [item for item in (*graph.initializer, *self.halves.values()) if item.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return self.model

    def _convert(self, node: onnx.NodeProto) -> None:
        half = self._may_be_half(node)
        wanted = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        if node.op_type not in SHAPES:
            for index, name in enumerate(node.input):
                node.input[index] = self._as(name, wanted)
        self.nodes.append(node)
        for name in node.output:
            if name in self.floats:
                self.types[name] = wanted

    def _may_be_half(self, node: onnx.NodeProto) -> bool:
        if node.op_type in FULL or any(name in self.tail for name in node.output):
            return False
        return all(_fits(self.constants[name]) for name in node.input if name in self.constants)

    def _as(self, name: str, wanted: TensorProto.DataType) -> str:
        """The name under which tensor `name` exists in the wanted type."""
        if name in self.constants:
            return self._half_constant(name) if wanted == TensorProto.FLOAT16 else name
        if name not in self.floats or self.types[name] == wanted:
            return name
        other = f"{name}_as_{'fp16' if wanted == TensorProto.FLOAT16 else 'fp32'}"
        if other not in self.types:
            self.types[other] = wanted
            self.nodes.append(helper.make_node("Cast", [name], [other], f"{other}_cast", to=wanted))
        return other

    def _half_constant(self, name: str) -> str:
        if name not in self.halves:
            values = numpy_helper.to_array(self.constants[name]).astype(np.float16)
            if name in self.scales:
                values = np.maximum(values, np.float16(SMALLEST))  # of a dead channel: TensorRT refuses a scale of 0
            self.halves[name] = numpy_helper.from_array(values, f"{name}_as_fp16")
        return self.halves[name].name


def _fits(constant: onnx.TensorProto) -> bool:
    """Whether fp16 holds every value, and no single number (such as an epsilon) becomes 0."""
    values = np.abs(numpy_helper.to_array(constant))
    if values.size == 0:
        return True
    return bool(values.max() <= LARGEST and not (values.size == 1 and 0 < values.max() < SMALLEST))


def _behind_last_product(graph: onnx.GraphProto) -> set[str]:
    """The output, and what it is computed from without another product: the normalisation to length 1."""
    producers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    waiting: Iterable[str] = [value.name for value in graph.output]
    while waiting:
        nodes = [producers[name] for name in waiting if name in producers and name not in found]
        nodes = [node for node in nodes if node.op_type not in PRODUCTS]
        found.update(name for node in nodes for name in node.output)
        waiting = [name for node in nodes for name in node.input]
    return found | {value.name for value in graph.output}
