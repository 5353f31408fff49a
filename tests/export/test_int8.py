"""What 8 bits never touch, whatever it would cost: branches that scale channels, and layers with nothing to gain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clip_edge.export.exporter import Request, export
from clip_edge.export.quantize.graph import Graph, weight_layers
from clip_edge.export.quantize.int8 import squeeze_branches
from clip_edge.export.tensorrt.eight_bits import refusals
from clip_edge.quantization import read_quantization

CHANNELS = 32


@pytest.fixture(name="branched")
def _branched() -> onnx.ModelProto:
    """A convolution, a squeeze-and-excite branch that scales its channels, and a pooled head."""
    random = np.random.default_rng(0)
    shapes = {"stem": (CHANNELS, 3, 3, 3), "down": (16, CHANNELS, 1, 1), "up": (CHANNELS, 16, 1, 1)}
    constants = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    constants |= {"head": random.normal(size=(CHANNELS, 24)).astype(np.float32), "space": np.array([2, 3])}
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["a"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["a", "space"], ["pooled"], "pool", keepdims=1),
        helper.make_node("Conv", ["pooled", "down"], ["d"], "down"),
        helper.make_node("Relu", ["d"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "up"], ["u"], "up"),
        helper.make_node("Sigmoid", ["u"], ["gate"], "switch"),
        helper.make_node("Mul", ["a", "gate"], ["b"], "scale"),
        helper.make_node("ReduceMean", ["b", "space"], ["mean"], "end", keepdims=0),
        helper.make_node("MatMul", ["mean", "head"], ["y"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 24])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_the_branch_between_pooling_and_sigmoid_is_found(branched: onnx.ModelProto) -> None:
    assert squeeze_branches(Graph(branched)) == {"down", "relu", "up"}


def test_tensorrt_keeps_what_is_one_vector_for_each_row(branched: onnx.ModelProto) -> None:
    reasons = refusals(branched, weight_layers(Graph(branched)))
    assert set(reasons) == {"stem", "down", "up", "head"}
    assert reasons["stem"] == "fewer than 16 channels"
    assert {reasons[name] for name in ("down", "up", "head")} == {
        "one vector for each row (squeeze-and-excite, pooled head): nothing to gain"
    }


@pytest.mark.slow
def test_a_trained_tower_says_so_of_its_own_branches(
    tiny_student: Path, tiny_calibration: Path, tmp_path: Path
) -> None:
    bundle, _ = export(tiny_student, [Request("onnx", "int8")], tmp_path / "bundle", calibration=tiny_calibration)
    artifact = bundle.manifest.artifact("image", ["onnx"], "int8")
    assert artifact.quantization is not None
    path = bundle.folder / artifact.quantization
    branches = [layer for layer in read_quantization(path.read_bytes(), path).layers if ".se." in layer.name]
    assert branches
    assert {layer.precision for layer in branches} == {"fp32"}
