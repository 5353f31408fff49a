"""Explicit Q/DQ: every chosen layer computes in 8 bits, numbers stay near, hostile weights end well."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from clip_edge.errors import ExportError
from clip_edge.export.quantize.graph import Graph, weight_layers
from clip_edge.export.quantize.qdq import TENSORRT, Scheme, insert_qdq, quantise_rows, quantised_values
from clip_edge.export.quantize.ranges import SAMPLED, choose_range, extremes, observe
from clip_edge.export.rows import Rows

CPU = Scheme("uint8", symmetric=False, weight_max=127, float_bias=False, outputs=frozenset({"Conv"}))


def convolutions(weight: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """x -> Conv -> Clip(0, 6) -> depthwise Conv -> y; the second weight is fixed."""
    random = np.random.default_rng(1)
    channels = len(weight)
    constants = {
        "first.weight": weight,
        "first.bias": bias,
        "second.weight": random.normal(size=(channels, 1, 3, 3)).astype(np.float32),
        "low": np.float32(0),
        "high": np.float32(6),
    }
    nodes = [
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["a"]),
        helper.make_node("Clip", ["a", "low", "high"], ["b"]),
        helper.make_node("Conv", ["b", "second.weight"], ["y"], group=channels, pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", channels, 8, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto, rows: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: rows})
    return np.asarray(found)


def quantise(model: onnx.ModelProto, rows: np.ndarray, scheme: Scheme) -> onnx.ModelProto:
    names = [layer.name for layer in weight_layers(Graph(model))]
    seen = observe(model, quantised_values(model, names, scheme), Rows({"x": rows}))
    ranges = {name: choose_range(values, "max", symmetric=scheme.symmetric) for name, values in seen.items()}
    return insert_qdq(model, names, ranges, scheme)


@pytest.fixture(name="rows")
def _rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 3, 8, 8)).astype(np.float32)


@pytest.fixture(name="plain")
def _plain() -> onnx.ModelProto:
    random = np.random.default_rng(2)
    return convolutions(random.normal(size=(8, 3, 1, 1)).astype(np.float32), np.zeros(8, np.float32))


@pytest.mark.parametrize("scheme", [CPU, TENSORRT], ids=["cpu", "tensorrt"])
def test_8_bits_stay_near(plain: onnx.ModelProto, rows: np.ndarray, scheme: Scheme) -> None:
    expected, found = run(plain, rows), run(quantise(plain, rows, scheme), rows)
    assert np.square(found - expected).sum() < 1e-3 * np.square(expected).sum()  # 30 dB


def test_layers_are_named_by_their_weights(plain: onnx.ModelProto) -> None:
    first, second = weight_layers(Graph(plain))
    assert (first.name, first.kind, first.bias) == ("first", "convolution", "first.bias")
    assert (second.name, second.kind, second.bias) == ("second", "depthwise", None)


def test_the_cpu_scheme_feeds_convolutions_nothing_but_integers(plain: onnx.ModelProto, rows: np.ndarray) -> None:
    model = quantise(plain, rows, CPU)
    makers = {value: node.op_type for node in model.graph.node for value in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert {makers[name] for name in node.input} == {"DequantizeLinear"}
    assert "Clip" not in makers.values()  # the quantised range ends where it cuts


def test_tensorrt_gets_float_biases_and_zero_points_of_zero(plain: onnx.ModelProto, rows: np.ndarray) -> None:
    model = quantise(plain, rows, TENSORRT)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            assert constants[node.input[2]].dtype == np.int8
            assert not constants[node.input[2]].any()
        if node.op_type == "Conv" and len(node.input) > 2:
            assert constants[node.input[2]].dtype == np.float32


@pytest.mark.filterwarnings("error")
def test_dead_channels_and_tiny_weights_stay_finite(rows: np.ndarray) -> None:
    weight = np.zeros((4, 3, 1, 1), np.float32)
    weight[1] = 1e-42  # subnormal: its scale would be zero
    weight[2] = 1e-9  # beside a bias that would not fit into 32 bits
    weight[3] = 1
    bias = np.array([0.5, 0.25, 5.0, -1.0], np.float32)
    plain = convolutions(weight, bias)
    found = run(quantise(plain, rows, CPU), rows)
    assert np.isfinite(found).all()
    assert np.allclose(found, run(plain, rows), atol=0.3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(rows: np.ndarray, value: float) -> None:
    weight = np.ones((4, 3, 1, 1), np.float32)
    good = convolutions(weight, np.zeros(4, np.float32))
    names = ["first"]
    ranges = dict.fromkeys(quantised_values(good, names, CPU), (-1.0, 1.0))
    weight[2, 1] = value
    with pytest.raises(ExportError, match="the weight of first holds NaN or infinity"):
        insert_qdq(convolutions(weight, np.zeros(4, np.float32)), names, ranges, CPU)


@pytest.mark.parametrize("look", [observe, extremes])
@pytest.mark.parametrize("row", [0, 3])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_an_activation_that_overflows_is_refused(
    plain: onnx.ModelProto, rows: np.ndarray, value: float, row: int, look: Callable[..., object]
) -> None:
    rows[row, 0, 0, 0] = value
    with pytest.raises(ExportError, match="the activation `a` is NaN or infinite in fp32"):
        look(plain, ["a"], Rows({"x": rows.repeat(3, axis=0)}))


def test_samples_are_as_many_for_each_row_whatever_the_first_axis_is() -> None:
    shape = numpy_helper.from_array(np.array([-1, 1]), "shape")
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 100, 100])]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", 1]))
    graph = helper.make_graph(nodes, "flat", ends[:1], ends[1:], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (values,) = observe(model, ["y"], Rows({"x": np.ones((6, 100, 100), np.float32)})).values()
    assert SAMPLED * 6 <= len(values.sample) <= 2 * SAMPLED * 6


def test_extremes_are_those_of_the_samples(plain: onnx.ModelProto, rows: np.ndarray) -> None:
    (values,) = observe(plain, ["a"], Rows({"x": rows})).values()
    assert extremes(plain, ["a"], Rows({"x": rows})) == {"a": (values.low, values.high)}


@pytest.mark.parametrize("method", ["max", "mse", "percentile"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_ranges_hold_zero_and_cut_outliers(
    plain: onnx.ModelProto, rows: np.ndarray, method: str, symmetric: bool
) -> None:
    rows = np.repeat(rows, 20, axis=0)
    rows[0, 0, 0, 0] = 1000.0
    (values,) = observe(plain, ["a"], Rows({"x": rows})).values()
    low, high = choose_range(values, method, symmetric=symmetric)  # type: ignore[arg-type]
    assert low <= 0 <= high
    assert not symmetric or low == -high
    reach, widest = max(-low, high), max(-values.low, values.high)
    assert (reach < widest / 2) if method == "percentile" else (reach <= widest)
    assert method != "max" or reach == widest


def test_rows_are_rounded_to_the_nearest_step() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    for axis, largest in ((0, 127), (1, 64)):
        rounded, scales = quantise_rows(weight, axis, largest, "w")
        back = rounded * (scales[:, None] if axis == 0 else scales)
        assert np.abs(rounded).max(1 - axis).tolist() == [largest] * weight.shape[axis]
        assert (np.abs(back - weight) <= 0.5001 * (scales[:, None] if axis == 0 else scales)).all()


def test_a_matrix_product_is_quantised_by_column() -> None:
    random = np.random.default_rng(0)
    weight = (random.normal(size=(16, 8)) * np.geomspace(1e-3, 1e3, 8)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    rows = random.normal(size=(32, 16)).astype(np.float32)
    expected, found = run(plain, rows), run(quantise(plain, rows, CPU), rows)
    error = np.square(found - expected).sum(0) / np.square(expected).sum(0)
    assert error.max() < 1e-3, "one scale for all columns would lose the small ones"


def test_attention_scores_and_softmax_are_never_chosen() -> None:
    """Products of two activations have no constant weight: neither q·k nor the shares of a softmax are rounded."""
    random = np.random.default_rng(0)
    constants = {name: random.normal(size=(8, 8)).astype(np.float32) for name in ("wq", "wk", "wo")}
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"], "query"),
        helper.make_node("MatMul", ["x", "wk"], ["k"], "key"),
        helper.make_node("Transpose", ["k"], ["kt"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], "scores"),
        helper.make_node("Softmax", ["scores"], ["shares"], "softmax", axis=-1),
        helper.make_node("MatMul", ["shares", "x"], ["mixed"], "mix"),
        helper.make_node("MatMul", ["mixed", "wo"], ["y"], "out"),
    ]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert {layer.node for layer in weight_layers(Graph(plain))} == {"query", "key", "out"}
    rows = random.normal(size=(4, 8, 8)).astype(np.float32)
    model = quantise(plain, rows, CPU)
    makers = {value: node.op_type for node in model.graph.node for value in node.output}
    rounded = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert rounded == {"x", "mixed"}
    for node in model.graph.node:
        if node.name in ("scores", "softmax"):
            assert "DequantizeLinear" not in {makers.get(name) for name in node.input}
