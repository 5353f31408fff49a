"""fp16 written into graphs: types by hand-made graphs, run where nobody repairs them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from clip_edge.export.half import NEAR_LARGEST, SMALLEST, Rules, finite_masks, overflowing, to_half
from clip_edge.export.quantize.fp16 import RULES
from clip_edge.export.quantize.graph import Graph
from clip_edge.export.rows import Rows


def graph(nodes: Sequence[onnx.NodeProto], **constants: np.ndarray) -> onnx.ModelProto:
    """`x` (batch, 8) -> `y`, operation set 19."""
    model = helper.make_model(
        helper.make_graph(
            list(nodes),
            "tower",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )
    return model


def types(model: onnx.ModelProto) -> dict[str, str]:
    """Node -> type of its first output."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    known = {
        value.name: value.type.tensor_type.elem_type for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
    return {node.name: TensorProto.DataType.Name(known[node.output[0]]) for node in model.graph.node}


def run(model: onnx.ModelProto, rows: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": rows})
    return np.asarray(found)


def finite(model: onnx.ModelProto) -> onnx.ModelProto:
    edited = Graph(model)
    finite_masks(edited)
    return edited.finish()


RANDOM = np.random.default_rng(0)
SQUARE = RANDOM.normal(size=(8, 8)).astype(np.float32)
ROWS = RANDOM.normal(size=(3, 8)).astype(np.float32)
ONES, ZEROS = np.ones(8, np.float32), np.zeros(8, np.float32)
AXES = np.array([1])

NORMALISED = [
    helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
    helper.make_node("LayerNormalization", ["a", "ones", "zeros"], ["b"], "norm", axis=-1),
    helper.make_node("MatMul", ["b", "w"], ["c"], "second"),
    helper.make_node("Softmax", ["c"], ["d"], "softmax", axis=-1),
    helper.make_node("MatMul", ["d", "w"], ["e"], "last"),
    helper.make_node("ReduceL2", ["e", "axes"], ["f"], "length", keepdims=1),
    helper.make_node("Clip", ["f", "epsilon"], ["g"], "not_zero"),
    helper.make_node("Div", ["e", "g"], ["y"], "unit"),
]


def normalised(scale: float = 1.0) -> onnx.ModelProto:
    constants = {"w": scale * SQUARE, "ones": ONES, "zeros": ZEROS, "axes": AXES, "epsilon": np.float32(1e-12)}
    return graph(NORMALISED, **{name: np.asarray(value) for name, value in constants.items()})


@pytest.fixture(name="rules", params=[Rules(), RULES], ids=["tensorrt", "onnx"])
def _rules(request: pytest.FixtureRequest) -> Rules:
    """What stays in fp32, by target."""
    rules: Rules = request.param
    return rules


def test_products_are_fp16_and_normalisations_fp32(rules: Rules) -> None:
    found = types(to_half(normalised(), rules))
    assert {found[name] for name in ("first", "second", "last")} == {"FLOAT16"}
    assert {found[name] for name in ("norm", "softmax", "length", "not_zero", "unit")} == {"FLOAT"}


def test_the_numbers_stay(rules: Rules) -> None:
    before, after = run(normalised(), ROWS), run(to_half(normalised(), rules), ROWS)
    assert after.dtype == np.float32
    assert np.abs(before - after).max() < 5e-3
    assert np.abs(np.linalg.norm(after, axis=1) - 1).max() < 1e-6  # lengths are computed in fp32


def test_squares_that_leave_the_range_of_fp16_do_not_overflow(rules: Rules) -> None:
    """The sum of squares of features around 1,000 is beyond 65,504; an epsilon of 1e-12 is 0 in fp16."""
    model = normalised(scale=1000.0)
    found = run(to_half(model, rules), ROWS)
    assert np.isfinite(found).all()
    assert np.abs(found - run(model, ROWS)).max() < 5e-3


def test_the_original_is_left_alone(rules: Rules) -> None:
    model = normalised()
    before = model.SerializeToString(deterministic=True)
    to_half(model, rules)
    assert model.SerializeToString(deterministic=True) == before


def test_weights_that_fp16_cannot_hold_keep_their_layer_in_fp32(rules: Rules) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "huge"], ["a"], "huge_product"),
        helper.make_node("MatMul", ["a", "w"], ["b"], "product"),
        helper.make_node("Softmax", ["b"], ["y"], "softmax", axis=-1),
    ]
    found = types(to_half(graph(nodes, huge=SQUARE * 1e6, w=SQUARE * 1e-6), rules))
    assert found["huge_product"] == "FLOAT"
    assert found["product"] == "FLOAT16"


@pytest.mark.parametrize("masked", [-np.inf, np.finfo(np.float32).min, -1e30])
def test_masks_become_finite(rules: Rules, masked: float) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Add", ["a", "mask"], ["b"], "add"),
        helper.make_node("Softmax", ["b"], ["c"], "softmax", axis=-1),
        helper.make_node("MatMul", ["c", "w"], ["y"], "last"),
    ]
    mask = np.where(np.arange(8) > 4, masked, 0).astype(np.float32)
    model = graph(nodes, w=SQUARE, mask=mask)
    before = run(model, ROWS)
    model = finite(model)
    assert np.abs(run(model, ROWS) - before).max() < 1e-6
    half = to_half(model, rules)
    assert np.abs(run(half, ROWS) - before).max() < 1e-2
    for constant in half.graph.initializer:
        assert np.isfinite(numpy_helper.to_array(constant)).all()


def test_a_row_that_is_masked_whole_is_no_nan(rules: Rules) -> None:
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["b"], "add"),
        helper.make_node("Softmax", ["b"], ["y"], "softmax", axis=-1),
    ]
    model = graph(nodes, mask=np.full(8, -np.inf, np.float32))
    assert np.isnan(run(model, ROWS)).all()
    assert np.isfinite(run(to_half(finite(model), rules), ROWS)).all()


def test_limits_may_be_infinite() -> None:
    model = graph([helper.make_node("Clip", ["x", "low"], ["y"], "clip")], low=np.asarray(-np.inf, np.float32))
    assert numpy_helper.to_array(finite(model).graph.initializer[0]) == -np.inf


def test_scales_are_fp16_and_never_zero() -> None:
    """A dead channel has a scale that fp16 rounds to 0, which TensorRT refuses."""
    scales = np.array([1e-12, 1e-9, 1e-3, 1, 1, 1, 1, 1], np.float32)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "dq"),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["w"], "weight", axis=1),
        helper.make_node("MatMul", ["xd", "w"], ["a"], "product"),
        helper.make_node("Softmax", ["a"], ["y"], "softmax", axis=-1),
    ]
    model = graph(
        nodes,
        s=np.asarray(0.02, np.float32),
        z=np.asarray(0, np.int8),
        wq=RANDOM.integers(-127, 128, (8, 8)).astype(np.int8),
        ws=scales,
        wz=np.zeros(8, np.int8),
    )
    half = to_half(model, Rules())
    assert {types(half)[name] for name in ("dq", "weight", "product")} == {"FLOAT16"}
    stored = {item.name: numpy_helper.to_array(item) for item in half.graph.initializer}
    assert stored["ws_as_fp16"].dtype == np.float16
    assert stored["ws_as_fp16"].min() == np.float16(SMALLEST)
    assert stored["s_as_fp16"].dtype == np.float16


def test_what_comes_near_the_end_of_the_range_stays_in_fp32(rules: Rules) -> None:
    """Weights of ordinary size, and values that are not: only rows can tell."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "small"),
        helper.make_node("MatMul", ["a", "large"], ["b"], "grows"),
        helper.make_node("MatMul", ["b", "little"], ["c"], "shrinks"),
        helper.make_node("MatMul", ["c", "w"], ["d"], "again"),
        helper.make_node("Softmax", ["d"], ["y"], "softmax", axis=-1),
    ]
    model = graph(nodes, w=SQUARE, large=SQUARE * 1e4, little=SQUARE * 1e-4)
    large = overflowing(model, Rows({"x": ROWS}))
    assert large == {"grows", "shrinks"}
    half = to_half(model, rules, large)
    assert types(half) | {"small": "FLOAT16", "again": "FLOAT16"} == types(half)
    assert {types(half)[name] for name in large} == {"FLOAT"}
    assert np.abs(run(half, ROWS) - run(model, ROWS)).max() < 5e-3
    assert overflowing(model, Rows({"x": ROWS * NEAR_LARGEST})) == {"small", "grows", "shrinks", "again", "softmax"}
