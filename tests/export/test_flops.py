"""Operations of a graph: by hand for each kind of product, and as PyTorch counts them for a whole student."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clip_edge.bundle import TOWERS, Bundle, Tower
from clip_edge.export.flops import count_flops, flops_of


def graph(nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]], shape: list[int | str]) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    made_graph = helper.make_graph(nodes, "one", [given], [made], tensors)
    return helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", 18)])


def test_a_convolution() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2], group=2)
    model = graph([node], {"w": (6, 2, 3, 3)}, ["batch", 4, 8, 8])
    assert count_flops(model) == 2 * (6 * 4 * 4) * (2 * 3 * 3)


def test_a_product_and_a_gemm() -> None:
    product = helper.make_node("MatMul", ["x", "a"], ["h"])
    gemm = helper.make_node("Gemm", ["h", "b"], ["y"], transB=1)
    model = graph([product, gemm], {"a": (5, 7), "b": (3, 7)}, ["batch", 5])
    assert count_flops(model) == 2 * 5 * 7 + 2 * 7 * 3


def test_other_operations_are_free() -> None:
    assert count_flops(graph([helper.make_node("Erf", ["x"], ["y"])], {}, ["batch", 5])) == 0


@pytest.mark.parametrize("tower", TOWERS)
def test_a_student_costs_what_pytorch_counts(tower: Tower, tiny_bundle: Path, tiny_student: Path) -> None:
    from clip_edge.distill.models.checkpoint import load_student
    from clip_edge.distill.models.operations import count_operations

    counted = flops_of(Bundle.open(tiny_bundle), tower)
    assert counted == pytest.approx(2 * getattr(count_operations(load_student(tiny_student).student), tower), rel=0.01)
