"""Embedding tables in few bits: rows as they were up to half a step, and as small as they should be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from clip_edge.export.quantize.graph import Graph, WeightLayer, weight_layers
from clip_edge.export.quantize.tables import byte_table, nibble_table

WORDS, WIDTH = 300, 32
TABLE = (np.random.default_rng(0).normal(size=(WORDS, WIDTH)) * np.geomspace(1e-3, 10, WORDS)[:, None]).astype("f4")


def looked_up(model: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"ids": np.arange(WORDS)[None]})
    return np.asarray(found)[0]


@pytest.mark.parametrize(("form", "steps", "bits"), [(byte_table, 127, 8), (nibble_table, 7, 4)])
def test_a_row_keeps_its_values_up_to_half_a_step(
    form: Callable[[Graph, WeightLayer], None], steps: int, bits: int
) -> None:
    """The table is most of a small text tower: a graph that kept it in fp32 would hardly be smaller."""
    described = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", WORDS]),
        helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", WORDS, WIDTH]),
    ]
    nodes = [helper.make_node("Gather", ["words", "ids"], ["rows"], "look_up", axis=0)]
    plain = helper.make_graph(nodes, "table", described[:1], described[1:], [numpy_helper.from_array(TABLE, "words")])
    graph = Graph(helper.make_model(plain, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    (layer,) = weight_layers(graph)
    form(graph, layer)
    model = graph.finish()
    step = np.abs(TABLE).max(1, keepdims=True) / steps
    assert (np.abs(looked_up(model) - TABLE) <= 0.5001 * step).all()
    stored = {tensor.name: len(tensor.raw_data) for tensor in model.graph.initializer}
    assert max(stored.values()) == WORDS * WIDTH * bits // 8
    assert sum(stored.values()) < WORDS * (WIDTH * bits // 8 + 4) + 100  # and one float for each row
