"""Rewrites for speed: the same numbers in fewer operations."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clip_edge.export.quantize.graph import Graph, weight_layers
from clip_edge.export.quantize.ranges import open_graph
from clip_edge.export.rewrite import add_biases, fold_transposes

RANDOM = np.random.default_rng(0)


def product(bias: np.ndarray, *, rows: int | str = 5, bias_first: bool = False) -> onnx.ModelProto:
    """x (batch, rows, 8) @ weight (8, 24) + bias, then ReLU."""
    nodes = [
        helper.make_node("MatMul", ["x", "val_1"], ["made"]),
        helper.make_node("Add", ["mlp.bias", "made"] if bias_first else ["made", "mlp.bias"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y"]),
    ]
    constants = {"val_1": RANDOM.normal(size=(8, 24)), "mlp.bias": bias}
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", rows, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", rows, 24])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def with_biases(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Counter[str]]:
    graph = Graph(model)
    add_biases(graph)
    made = graph.finish()
    onnx.checker.check_model(made, full_check=True)
    return made, Counter(node.op_type for node in made.graph.node)


@pytest.mark.parametrize("bias_first", [False, True])
def test_a_bias_is_added_by_the_product(bias_first: bool) -> None:
    model = product(RANDOM.normal(size=24), bias_first=bias_first)
    made, counts = with_biases(model)
    assert counts == {"Reshape": 2, "Gemm": 1, "Relu": 1}
    (layer,) = weight_layers(Graph(made))
    assert (layer.name, layer.kind, layer.axis, layer.bias) == ("mlp", "linear", 1, "mlp.bias")
    for batch in (1, 3):
        x = RANDOM.normal(size=(batch, 5, 8)).astype(np.float32)
        before, after = (open_graph(one).run(None, {"x": x})[0] for one in (model, made))
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [product(RANDOM.normal(size=size), rows=rows) for size, rows in (((5, 24), 5), (24, "rows"), (1, 5))],
    ids=["a summand for each row", "rows that are free", "one number"],
)
def test_what_is_no_such_bias_stays(model: onnx.ModelProto) -> None:
    assert with_biases(model)[1] == {"MatMul": 1, "Add": 1, "Relu": 1}


def test_a_constant_is_transposed_once() -> None:
    weight = RANDOM.normal(size=(24, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["weight"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 24]),
    ]
    made = helper.make_graph(nodes, "turned", ends[:1], ends[1:], [numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    graph = Graph(model)
    assert weight_layers(graph) == []
    fold_transposes(graph)
    (layer,) = weight_layers(graph)
    assert layer.axis == 1
    rows = RANDOM.normal(size=(3, 8)).astype(np.float32)
    (found,) = open_graph(graph.finish()).run(None, {"x": rows})
    assert found == pytest.approx(rows @ weight.T, abs=1e-5)
