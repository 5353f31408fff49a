"""8-bit floats (E4M3): the Q/DQ pairs of int8 with other steps and the weights rounded anew."""

from __future__ import annotations

from collections.abc import Collection

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

from clip_edge.export.quantize.graph import Graph, weight_layers

LARGEST = 448.0  # of E4M3
INT8_STEPS = 127.0


def to_fp8(quantised: onnx.ModelProto, model: onnx.ModelProto, layers: Collection[str]) -> onnx.ModelProto:
    """`quantised`, which `insert_qdq` made from `model` with symmetric int8, in E4M3 instead.

    The same ranges: a scale that spread 127 steps now spreads 448, and weights are rounded from fp32 again.
    """
    graph, source = Graph(quantised), Graph(model)
    weights = {f"{layer.weight}_{layer.node}": layer for layer in weight_layers(source) if layer.name in layers}
    for name in {node.input[1] for node in graph.nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear")}:
        scale = (graph.array(name) * (INT8_STEPS / LARGEST)).astype(np.float32)
        graph.constants[name] = numpy_helper.from_array(scale, name)
        stem = name.removesuffix("_scale")
        zero = np.zeros(scale.shape, ml_dtypes.float8_e4m3fn)
        graph.constants[f"{stem}_zero"] = numpy_helper.from_array(zero, f"{stem}_zero")
        if (layer := weights.get(stem)) is not None:
            values = source.array(layer.weight)
            shape = [-1 if axis == layer.axis else 1 for axis in range(values.ndim)]
            rounded = np.clip(values / scale.reshape(shape), -LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn)
            graph.constants[f"{stem}_q"] = numpy_helper.from_array(rounded, f"{stem}_q")
    return graph.finish()
