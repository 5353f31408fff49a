"""fp16 written into graphs: types by hand-made graphs, run where nobody repairs them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from clip_edge.export.tensorrt.half import SMALLEST, finite_masks, inline_constants, to_half


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


def test_products_are_fp16_and_normalisations_fp32() -> None:
    found = types(to_half(normalised()))
    assert {found[name] for name in ("first", "second", "last")} == {"FLOAT16"}
    assert {found[name] for name in ("norm", "softmax", "length", "not_zero", "unit")} == {"FLOAT"}


def test_the_numbers_stay() -> None:
    before, after = run(normalised(), ROWS), run(to_half(normalised()), ROWS)
    assert after.dtype == np.float32
    assert np.abs(before - after).max() < 5e-3
    assert np.abs(np.linalg.norm(after, axis=1) - 1).max() < 1e-6  # lengths are computed in fp32


def test_squares_that_leave_the_range_of_fp16_do_not_overflow() -> None:
    """The sum of squares of features around 1,000 is beyond 65,504; an epsilon of 1e-12 is 0 in fp16."""
    model = normalised(scale=1000.0)
    found = run(to_half(model), ROWS)
    assert np.isfinite(found).all()
    assert np.abs(found - run(model, ROWS)).max() < 5e-3


def test_the_original_is_left_alone() -> None:
    model = normalised()
    before = model.SerializeToString(deterministic=True)
    to_half(model)
    assert model.SerializeToString(deterministic=True) == before


def test_weights_that_fp16_cannot_hold_keep_their_layer_in_fp32() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "huge"], ["a"], "huge_product"),
        helper.make_node("MatMul", ["a", "w"], ["b"], "product"),
        helper.make_node("Softmax", ["b"], ["y"], "softmax", axis=-1),
    ]
    found = types(to_half(graph(nodes, huge=SQUARE * 1e6, w=SQUARE * 1e-6)))
    assert found["huge_product"] == "FLOAT"
    assert found["product"] == "FLOAT16"


@pytest.mark.parametrize("masked", [-np.inf, np.finfo(np.float32).min, -1e30])
def test_masks_become_finite(masked: float) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Add", ["a", "mask"], ["b"], "add"),
        helper.make_node("Softmax", ["b"], ["c"], "softmax", axis=-1),
        helper.make_node("MatMul", ["c", "w"], ["y"], "last"),
    ]
    mask = np.where(np.arange(8) > 4, masked, 0).astype(np.float32)
    model = graph(nodes, w=SQUARE, mask=mask)
    before = run(model, ROWS)
    finite_masks(model)
    assert np.abs(run(model, ROWS) - before).max() < 1e-6
    half = to_half(model)
    assert np.abs(run(half, ROWS) - before).max() < 1e-2
    for constant in half.graph.initializer:
        assert np.isfinite(numpy_helper.to_array(constant)).all()


def test_a_row_that_is_masked_whole_is_no_nan() -> None:
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["b"], "add"),
        helper.make_node("Softmax", ["b"], ["y"], "softmax", axis=-1),
    ]
    model = graph(nodes, mask=np.full(8, -np.inf, np.float32))
    assert np.isnan(run(model, ROWS)).all()
    finite_masks(model)
    assert np.isfinite(run(to_half(model), ROWS)).all()


def test_limits_may_be_infinite() -> None:
    model = graph([helper.make_node("Clip", ["x", "low"], ["y"], "clip")], low=np.asarray(-np.inf, np.float32))
    finite_masks(model)
    assert numpy_helper.to_array(model.graph.initializer[0]) == -np.inf


def test_constants_have_one_form() -> None:
    value = numpy_helper.from_array(SQUARE, "inner")
    model = graph(
        [helper.make_node("Constant", [], ["w"], value=value), helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    )
    before = run(model, ROWS)
    inline_constants(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    assert (run(model, ROWS) == before).all()


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
    half = to_half(model)
    assert {types(half)[name] for name in ("dq", "weight", "product")} == {"FLOAT16"}
    stored = {item.name: numpy_helper.to_array(item) for item in half.graph.initializer}
    assert stored["ws_as_fp16"].dtype == np.float16
    assert stored["ws_as_fp16"].min() == np.float16(SMALLEST)
    assert stored["s_as_fp16"].dtype == np.float16
