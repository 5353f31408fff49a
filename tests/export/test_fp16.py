"""The fp16 form of small graphs: what stays fp32 and why, and names that do not meet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from clip_edge.export.half import to_half
from clip_edge.export.quantize.fp16 import RULES
from clip_edge.export.quantize.graph import Graph
from clip_edge.export.rewrite import fuse_gelu

OPEN = "import onnxruntime, sys; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
ROWS = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


def graph(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """`pixels` (n, 3, 8, 8) -> `out`."""
    return helper.make_model(
        helper.make_graph(
            nodes,
            "tower",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 8, 8])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def attention(blocks: int = 2) -> onnx.ModelProto:
    """A convolution, and products whose two factors are scaled first, as attention does it."""
    nodes = [helper.make_node("Conv", ["pixels", "w"], ["x0"], strides=[2, 2], kernel_shape=[2, 2])]
    for i in range(blocks):
        nodes += [
            helper.make_node("Mul", [f"x{i}", "scale"], [f"q{i}"], name=f"scale_q{i}"),
            helper.make_node("Transpose", [f"x{i}"], [f"t{i}"], perm=[0, 1, 3, 2]),
            helper.make_node("Mul", [f"t{i}", "scale"], [f"k{i}"], name=f"scale_k{i}"),
            helper.make_node("MatMul", [f"q{i}", f"k{i}"], [f"s{i}"], name=f"product{i}"),
            helper.make_node("Softmax", [f"s{i}"], [f"x{i + 1}"], axis=-1),
        ]
    nodes.append(helper.make_node("Identity", [f"x{blocks}"], ["out"]))
    weight = np.random.default_rng(1).standard_normal((16, 3, 2, 2)).astype(np.float32)
    return graph(nodes, {"w": weight, "scale": np.array(0.5, np.float32)})


def run(model: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"pixels": ROWS})[0]
    return found


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Node -> element type of what it makes."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
    return {node.name: kinds[node.output[0]] for node in model.graph.node}


def test_the_factors_of_a_product_are_scaled_in_fp32(tmp_path: Path) -> None:
    before = attention()
    after = to_half(before, RULES)
    found = types(after)
    assert {found[f"scale_{factor}{i}"] for factor in "qk" for i in range(2)} == {TensorProto.FLOAT}
    assert {found[f"product{i}"] for i in range(2)} == {TensorProto.FLOAT16}
    onnx.save(after, tmp_path / "half.onnx")
    opened = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path / "half.onnx")], check=False)
    assert opened.returncode == 0  # in a process of its own: the fault is one of segmentation
    np.testing.assert_allclose(run(after), run(before), atol=2e-3)


def test_a_value_called_like_the_half_of_another_is_no_clash() -> None:
    """`gelu` in fp16 and the constant `gelu_half`, the factor 0.5 of a GELU, are two things."""
    nodes = [
        helper.make_node("Div", ["pixels", "root"], ["d"], name="div"),
        helper.make_node("Erf", ["d"], ["e"], name="erf"),
        helper.make_node("Add", ["e", "one"], ["a"], name="add"),
        helper.make_node("Mul", ["a", "part"], ["p"], name="part"),
        helper.make_node("Mul", ["pixels", "p"], ["gelu"], name="end"),
        helper.make_node("Relu", ["gelu"], ["relu"], name="relu"),
        helper.make_node("MatMul", ["relu", "one_each"], ["out"], name="out"),
    ]
    numbers = {"root": 2**0.5, "one": 1.0, "part": 0.5, "one_each": np.eye(8)}
    prepared = Graph(graph(nodes, {name: np.array(value, np.float32) for name, value in numbers.items()}))
    fuse_gelu(prepared)
    before = prepared.finish()
    assert "gelu_half" in {tensor.name for tensor in before.graph.initializer}
    after = to_half(before, RULES, {"end"})
    assert types(after)["end"] == TensorProto.FLOAT
    assert types(after)["relu"] == TensorProto.FLOAT16
    np.testing.assert_allclose(run(after), run(before), atol=2e-3)
