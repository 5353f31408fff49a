"""The same function in the form that runtimes run fastest: GELU in one piece, constant factors inside weights."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx

from clip_edge.export.quantize.graph import Graph, WeightLayer, value_infos, weight_layers

GELU_OPSET = 20  # the first with the operation Gelu


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    """The fp32 graph, quicker: the same operation set, the same numbers up to the last digits."""
    graph = Graph(model)
    fuse_gelu(graph)
    fold_factors(graph)
    add_biases(graph)
    return graph.finish()


def gelus(graph: Graph) -> Iterator[tuple[str, str, onnx.NodeProto]]:
    """Every x * (1 + erf(x / sqrt(2))) / 2 of the graph: the names of x and of 1 + erf, and the node that ends it."""
    makers, users = graph.makers(), graph.users()
    for erf in [node for node in graph.nodes if node.op_type == "Erf"]:
        x = _scaled_input(graph, makers.get(erf.input[0]))
        shifted = _only_user(users, erf.output[0], "Add")
        if x is None or shifted is None or not _has_constant(graph, shifted, 1.0):
            continue
        end = _product(graph, makers, users, x, shifted.output[0])
        if end is not None:
            yield x, shifted.output[0], end


def fuse_gelu(graph: Graph) -> None:
    """Write each GELU as (x * (1 + erf)) * 0.5, the order that ONNX Runtime recognises and replaces by one kernel.

    torch writes x * (0.5 * (1 + erf)), which runs as five passes over memory: FastViT took 1.6 times as long.
    """
    half = graph.add_constant("gelu_half", np.float32(0.5))
    for x, shifted, end in list(gelus(graph)):
        end.input[:] = [graph.add("Mul", [x, shifted], f"{end.output[0]}_twice"), half]


def replace_gelu(graph: Graph) -> None:
    """Write each GELU as the operation of that name: its input may then be a DequantizeLinear (opset 20)."""
    for x, _, end in list(gelus(graph)):
        result = end.output[0]
        end.output[0] = f"{result}_unused"
        graph.add("Gelu", [x], result)


def fold_factors(graph: Graph) -> None:
    """Take a constant factor or summand of each channel behind a convolution into its weight and bias.

    Layer scales are such factors. Runtimes fold them too, but not once the weight is quantised.
    """
    for layer in weight_layers(graph):
        while layer.op == "Conv" and _fold_one(graph, layer):
            pass


def fold_transposes(graph: Graph) -> None:
    """Turn once and for all what is transposed at run time: torch leaves weights so that two layers share."""
    for node in [node for node in graph.nodes if node.op_type == "Transpose" and node.input[0] in graph.constants]:
        turn = next((list(item.ints) for item in node.attribute if item.name == "perm"), None)
        graph.add_constant(node.output[0], graph.array(node.input[0]).transpose(turn))
        graph.nodes.remove(node)


def add_biases(graph: Graph) -> None:
    """Write each product of rows (B, N, K) with a weight, and the bias added behind it, as one Gemm over B * N rows.

    Runtimes add the bias while they write the product; behind a MatMul of three dimensions it is a pass of its own.
    """
    shapes = _shapes(graph)
    users = graph.users()
    for layer in [layer for layer in weight_layers(graph) if layer.op == "MatMul"]:
        node = next(node for node in graph.nodes if node.name == layer.node)
        add = _only_user(users, layer.output, "Add")
        shape = shapes.get(layer.input, ())
        if add is None or len(shape) != 3 or not all(shape[1:]) or add.output[0] in graph.outputs:
            continue
        bias, outputs = _other(add, layer.output), graph.constants[layer.weight].dims[1]
        if bias not in graph.constants or list(graph.constants[bias].dims) != [outputs]:
            continue
        rows, result = f"{layer.input}_rows", add.output[0]
        if not any(rows in other.output for other in graph.nodes):
            graph.add("Reshape", [layer.input, _sizes(graph, -1, shape[2])], rows)
        node.op_type, node.input[:], node.output[0] = "Gemm", [rows, layer.weight, bias], f"{result}_rows_out"
        add.output[0] = f"{result}_unused"
        graph.add("Reshape", [node.output[0], _sizes(graph, -1, shape[1], outputs)], result)


def _sizes(graph: Graph, *sizes: int) -> str:
    return graph.add_constant("sizes_" + "_".join(map(str, sizes)).replace("-1", "b"), np.array(sizes, np.int64))


def _shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Value -> its sizes, 0 for those that are free."""
    values = value_infos(graph.finish())
    return {value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim) for value in values}


def _fold_one(graph: Graph, layer: WeightLayer) -> bool:
    users = graph.users()
    node = next(node for node in graph.nodes if node.name == layer.node)
    follower = _only_user(users, layer.output, "Mul") or _only_user(users, layer.output, "Add")
    if follower is None or follower.output[0] in graph.outputs:
        return False
    weight = graph.array(node.input[1])
    value = next((_per_channel(graph, name, weight) for name in follower.input if name in graph.constants), None)
    if value is None:
        return False
    bias = graph.array(node.input[2]) if len(node.input) > 2 else np.zeros(len(weight), np.float32)
    if follower.op_type == "Mul":
        graph.change_constant(node, 1, weight * value.reshape((-1,) + (1,) * (weight.ndim - 1)))
        bias = bias * value
    else:
        bias = bias + value
    if len(node.input) > 2:
        graph.change_constant(node, 2, bias)
    else:
        node.input.append(graph.add_constant(f"{layer.name}.bias", bias))
    graph.replace_uses(follower.output[0], layer.output, users.get(follower.output[0], []))
    return True


def _per_channel(graph: Graph, name: str, weight: np.ndarray) -> np.ndarray | None:
    """A constant as one float for each output channel of a convolution, or None when it is none."""
    value = graph.array(name)
    wanted = (len(weight),) + (1,) * (weight.ndim - 2)
    if value.dtype != np.float32 or value.shape not in (wanted, (1, *wanted), (), (1,)):
        return None
    return np.broadcast_to(value.reshape(-1), len(weight))


def _only_user(users: dict[str, list[onnx.NodeProto]], value: str, op: str) -> onnx.NodeProto | None:
    """The one node that uses `value`, when it is of that kind and uses it once."""
    found = users.get(value, [])
    once = len(found) == 1 and list(found[0].input).count(value) == 1
    return found[0] if once and found[0].op_type == op else None


def _has_constant(graph: Graph, node: onnx.NodeProto, wanted: float) -> bool:
    return any(_is_constant(graph, name, wanted) for name in node.input)


def _is_constant(graph: Graph, name: str, wanted: float) -> bool:
    if name not in graph.constants:
        return False
    value = graph.array(name)
    return value.size == 1 and math.isclose(value.item(), wanted, rel_tol=1e-6)


def _scaled_input(graph: Graph, node: onnx.NodeProto | None) -> str | None:
    """x of x / sqrt(2) or x * sqrt(1/2)."""
    if node is None or node.op_type not in ("Div", "Mul"):
        return None
    wanted = math.sqrt(2) if node.op_type == "Div" else math.sqrt(0.5)
    return str(node.input[0]) if _is_constant(graph, node.input[1], wanted) else None


def _product(
    graph: Graph,
    makers: dict[str, onnx.NodeProto],
    users: dict[str, list[onnx.NodeProto]],
    x: str,
    shifted: str,
) -> onnx.NodeProto | None:
    """The last of the two products that make x * 0.5 * shifted, in whatever order."""
    first = _only_user(users, shifted, "Mul")
    if first is None:
        return None
    other = _other(first, shifted)
    maker = makers.get(other)
    if maker is not None and maker.op_type == "Mul" and x in maker.input and _has_constant(graph, maker, 0.5):
        return first
    second = _only_user(users, first.output[0], "Mul")
    if second is None:
        return None
    last = _other(second, first.output[0])
    if _is_constant(graph, other, 0.5):
        return second if last == x else None
    return second if other == x and _is_constant(graph, last, 0.5) else None


def _other(node: onnx.NodeProto, name: str) -> str:
    return str(node.input[1] if node.input[0] == name else node.input[0])
