"""Editing a graph: the model stays as it was, weights are shared, and shapes are known without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import shape_inference

from clip_edge.export.quantize.graph import SMALL, Graph, value_infos


@pytest.fixture(params=["vision_model", "text_model"])
def model(request: pytest.FixtureRequest, tiny_bundle: Path) -> onnx.ModelProto:
    return onnx.load(tiny_bundle / "onnx" / f"{request.param}.onnx")


def test_the_model_stays_as_it_was(model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)
    graph = Graph(model)
    names = list(graph.constants)
    for name in names:
        graph.add_constant(f"{name}_twice", 2 * graph.array(name))
    for node in graph.nodes:
        node.input[:] = [f"{name}_twice" if name in names else name for name in node.input]
    finished = graph.finish()
    assert model.SerializeToString(deterministic=True) == before
    assert {item.name for item in finished.graph.initializer} == {
        f"{item.name}_twice" for item in model.graph.initializer
    }


def test_what_is_not_edited_comes_out_as_it_went_in(model: onnx.ModelProto) -> None:
    finished = Graph(model).finish()
    assert finished.graph.node == model.graph.node
    weights = {item.name: item for item in model.graph.initializer}
    assert {item.name: item for item in finished.graph.initializer} == weights
    assert (finished.ir_version, list(finished.opset_import)) == (model.ir_version, list(model.opset_import))


def test_a_weight_that_is_replaced_stays_in_the_others(model: onnx.ModelProto) -> None:
    graph, other = Graph(model), Graph(model)
    name, tensor = max(graph.constants.items(), key=lambda item: item[1].ByteSize())
    assert other.constants[name] == tensor
    user = next(node for node in graph.nodes if name in node.input)
    graph.change_constant(user, list(user.input).index(name), np.zeros(graph.array(name).shape, np.float32))
    assert not graph.array(user.input[list(user.input).index(name)]).any()
    assert other.array(name).any()


def test_shapes_are_those_that_are_inferred_with_every_weight(model: onnx.ModelProto) -> None:
    assert any(np.prod(item.dims) > SMALL for item in model.graph.initializer)
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    expected = [*inferred.input, *inferred.value_info, *inferred.output]
    assert {value.name: value for value in value_infos(model)} == {value.name: value for value in expected}
