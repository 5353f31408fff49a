"""One session for every mix of weights: the same embeddings as the graph that holds those weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from clip_edge.export.quantize.graph import Graph, weight_layers
from clip_edge.export.quantize.judge import Judge, embed
from clip_edge.export.quantize.mixture import Forms, Mixture
from clip_edge.export.rows import Rows

ROWS = Rows({"ids": np.random.default_rng(0).integers(0, 10, (7, 4))})


def _model(table: np.ndarray, *products: np.ndarray) -> onnx.ModelProto:
    """A lookup and products, the last two of which share a weight."""
    names = [f"w{index}" for index in range(len(products))]
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"]), helper.make_node("MatMul", ["x", "w0"], ["h"])]
    nodes += [helper.make_node("MatMul", ["h", "w1"], ["k"]), helper.make_node("MatMul", ["k", "w1"], ["m"])]
    nodes.append(helper.make_node("ReduceMean", ["m", "axes"], ["y"], keepdims=0))
    constants = [numpy_helper.from_array(value, name) for name, value in zip(names, products, strict=True)]
    constants += [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axes")]
    source = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])
    graph = helper.make_graph(nodes, "tower", [source], [result], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_mix_computes_what_its_graph_would() -> None:
    random = np.random.default_rng(1)
    weights = [random.normal(size=size).astype(np.float32) for size in ((10, 8), (8, 8), (8, 8))]
    low = [np.round(weight).astype(np.float32) for weight in weights]
    high = [np.round(weight * 8).astype(np.float32) / 8 for weight in weights]
    base = _model(*weights)
    layers = weight_layers(Graph(base))
    names = {layer.name: ("table", "w0", "w1").index(layer.weight) for layer in layers}
    assert len(names) == 4
    mixture = Mixture(base, layers, {name: Forms(low[at], high[at]) for name, at in names.items()})
    chosen = [name for name, at in names.items() if at != 1]
    (expected,) = embed(_model(low[0], high[1], low[2]), ROWS)
    (found,) = mixture.choose(chosen)(ROWS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    judge = Judge(_model(low[0], high[1], low[2]), ROWS, 0.99)
    assert judge.cosines(mixture.choose(chosen)).min() > 0.999999
    assert judge.cosines(mixture.choose([])).min() < 0.9999


def test_layers_without_forms_keep_their_weights() -> None:
    random = np.random.default_rng(2)
    weights = [random.normal(size=size).astype(np.float32) for size in ((10, 8), (8, 8), (8, 8))]
    base = _model(*weights)
    layers = weight_layers(Graph(base))
    (first,) = (layer.name for layer in layers if layer.weight == "w0")
    mixture = Mixture(base, layers, {first: Forms(np.zeros((8, 8), np.float32), weights[1])})
    np.testing.assert_allclose(mixture.choose([])(ROWS), embed(base, ROWS), rtol=1e-5, atol=1e-5)
    assert not mixture.choose([first])(ROWS)[0].any()
