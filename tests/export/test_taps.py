"""The identity in folded kernels: found where it is, and taken out or shared without changing a number."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from clip_edge.export.quantize.graph import Graph, weight_layers
from clip_edge.export.quantize.qdq import quantise_rows
from clip_edge.export.quantize.taps import equalise, identity_kernels, split_identity

CHANNELS = 16
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(3, CHANNELS, 8, 8)).astype(np.float32)


def kernel(centre: float, others: float) -> np.ndarray:
    """(C, 1, 3, 3): taps of a size, and a centre of another."""
    weight = others * RANDOM.normal(size=(CHANNELS, 1, 3, 3))
    weight[:, 0, 1, 1] = centre + others * RANDOM.normal(size=CHANNELS)
    return weight.astype(np.float32)


@pytest.fixture(name="block")
def _block() -> onnx.ModelProto:
    """A folded RepMixer, a depthwise kernel without an identity, and the convolution that reads it alone."""
    constants = {
        "mixer": kernel(1.0, 3e-3),
        "plain": kernel(0.3, 0.3) * np.geomspace(0.01, 10, CHANNELS).astype(np.float32)[:, None, None, None],
        "plain_bias": RANDOM.normal(size=CHANNELS).astype(np.float32),
        "dense": RANDOM.normal(size=(24, CHANNELS, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "mixer"], ["a"], "mix", group=CHANNELS, pads=[1] * 4),
        helper.make_node("Conv", ["a", "plain", "plain_bias"], ["b"], "spread", group=CHANNELS, pads=[1] * 4),
        helper.make_node("Conv", ["b", "dense"], ["y"], "read"),
    ]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", CHANNELS, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 24, 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": ROWS})[0])


def test_only_a_kernel_that_gives_back_what_it_reads_is_found(block: onnx.ModelProto) -> None:
    assert [layer.node for layer in identity_kernels(Graph(block))] == ["mix"]
    strided = onnx.ModelProto()
    strided.CopyFrom(block)
    strided.graph.node[0].attribute.append(helper.make_attribute("strides", [2, 2]))
    assert identity_kernels(Graph(strided)) == []


@pytest.mark.parametrize("change", [split_identity, equalise])
def test_the_numbers_stay(block: onnx.ModelProto, change: object) -> None:
    graph = Graph(block)
    change(graph)  # type: ignore[operator]
    assert np.abs(run(graph.finish()) - run(block)).max() < 1e-4


def test_an_identity_in_8_bits_swallows_the_other_taps_and_its_split_does_not(block: onnx.ModelProto) -> None:
    graph = Graph(block)
    split_identity(graph)
    lost = []
    for model in (Graph(block), graph):
        (layer,) = (layer for layer in weight_layers(model) if layer.node == "mix")
        rounded, _ = quantise_rows(model.array(layer.weight), 0, 64, layer.name)
        lost.append(float((np.delete(rounded.reshape(CHANNELS, -1), 4, 1) == 0).mean()))
    assert lost[0] > 0.9
    assert lost[1] < 0.05


def test_shared_ranges_are_even(block: onnx.ModelProto) -> None:
    graph = Graph(block)
    equalise(graph)
    layers = {layer.node: graph.array(layer.weight) for layer in weight_layers(graph)}
    wide = np.abs(layers["spread"]).reshape(CHANNELS, -1).max(1)
    read = np.abs(layers["read"]).reshape(24, CHANNELS).max(0)
    np.testing.assert_allclose(wide, read, rtol=1e-5)
