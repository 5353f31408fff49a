"""The floating-point operations of a tower: two for each multiplication that is added up in a convolution or product.

Norms, activations and softmax are not counted: they are a hundredth of the work of these models, and other people's
figures leave them out, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx

from clip_edge.bundle import Bundle, Tower
from clip_edge.export.quantize.graph import value_infos

MAX_GRAPH_BYTES = 2 * 1024**3
EXACT_TARGETS = ("onnx", "trt", "trt-rtx")  # whose fp32 graph says what a tower computes

Shapes = Mapping[str, Sequence[int]]


def flops_of(bundle: Bundle, tower: Tower) -> int | None:
    """Of one picture or sentence; None when no graph in fp32 is in the bundle.

    Raises:
        BundleError: the graph was changed.
    """
    exact = bundle.manifest.fitting(tower, EXACT_TARGETS).get("fp32")
    if exact is None:
        return None
    return count_flops(onnx.load_model_from_string(bundle.read(exact.path, MAX_GRAPH_BYTES)))


def count_flops(model: onnx.ModelProto) -> int:
    """For one row. Every free size of the inputs is taken as 1: the batch is the only one.

    Raises:
        onnx.shape_inference.InferenceError: the graph contradicts itself.
    """
    single = onnx.ModelProto()
    single.CopyFrom(model)
    for value in (*single.graph.input, *single.graph.output):
        for side in value.type.tensor_type.shape.dim:
            side.dim_value = side.dim_value or 1
    shapes = {info.name: [side.dim_value for side in info.type.tensor_type.shape.dim] for info in value_infos(single)}
    shapes |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return sum(_node(node, shapes) for node in model.graph.node)


def _node(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Every value of the output is a sum of so many products."""
    if node.op_type == "Conv":
        _, *summed = shapes[node.input[1]]  # (out, in of the group, kernel…)
        terms = math.prod(summed)
    elif node.op_type == "MatMul":
        terms = shapes[node.input[0]][-1]
    elif node.op_type == "Gemm":
        is_transposed = any(item.name == "transA" and item.i for item in node.attribute)
        terms = shapes[node.input[0]][0 if is_transposed else 1]
    else:
        return 0
    return 2 * terms * math.prod(shapes[node.output[0]])
