"""What a layer loses in 8 bits: measured as NumPy would, and taken back by its bias where it is a shift of the mean."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clip_edge.export.quantize.graph import Graph, weight_layers
from clip_edge.export.quantize.layers import LOSSLESS_DB, Loss, Rounded, losses
from clip_edge.export.quantize.qdq import TENSORRT, Scheme, insert_qdq, quantise_rows, quantised_values
from clip_edge.export.quantize.ranges import choose_range, observe, open_graph
from clip_edge.export.rows import Rows

CPU = Scheme("uint8", symmetric=False, weight_max=7, float_bias=False, outputs=frozenset({"Conv"}))
COARSE_TRT = Scheme("int8", symmetric=True, weight_max=7, float_bias=True)


def model(*, bias: bool = True) -> onnx.ModelProto:
    """x (B, 5, 6, 6) -> a convolution of 4 channels (B, 4, 6, 6) -> ReLU."""
    random = np.random.default_rng(3)
    constants = {"c.weight": random.normal(size=(4, 5, 1, 1)), "c.bias": random.normal(size=4)}
    names = ["c.weight", "c.bias"] if bias else ["c.weight"]
    nodes = [helper.make_node("Conv", ["x", *names], ["a"], name="c"), helper.make_node("Relu", ["a"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 6, 6])],
        [numpy_helper.from_array(constants[name].astype(np.float32), name) for name in names],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.fixture(name="rows")
def _rows() -> Rows:
    """Pictures whose mean is not 0: only then does a rounded weight move the mean of what it gives."""
    return Rows({"x": np.random.default_rng(0).normal(loc=1.0, size=(37, 5, 6, 6)).astype(np.float32)})


def rounded(plain: onnx.ModelProto, largest: int = 7) -> Rounded:
    """The convolution with weights of so many steps on each side."""
    graph = Graph(plain)
    (layer,) = weight_layers(graph)
    whole, scales = quantise_rows(graph.array(layer.weight), 0, largest, layer.name)
    return Rounded(layer, whole * scales.reshape(-1, 1, 1, 1))


def outputs(graph: onnx.ModelProto, rows: Rows, name: str = "a") -> np.ndarray:
    session = open_graph(graph, [name])
    return np.concatenate([session.run(None, part)[0] for part in rows.batches()]).astype(np.float64)


def test_losses_are_those_of_numpy(rows: Rows) -> None:
    plain = model()
    layer = rounded(plain)
    loss = losses(plain, [layer], rows)["c"]
    expected = outputs(plain, rows)
    graph = Graph(plain)
    error = np.einsum("oi,bihw->bohw", layer.weight[:, :, 0, 0] - graph.array("c.weight")[:, :, 0, 0], rows.inputs["x"])
    assert loss.shift is not None
    np.testing.assert_allclose(loss.shift, error.mean((0, 2, 3)), atol=1e-5)
    assert loss.signal == pytest.approx(np.square(expected).mean(), rel=1e-5)
    assert loss.noise == pytest.approx(np.square(error).mean(), rel=1e-4)
    left = error - loss.shift.reshape(1, -1, 1, 1)
    for corrected, noise in ((False, error), (True, left)):
        wanted = 10 * np.log10(np.square(expected).mean() / np.square(noise).mean())
        assert loss.snr_db(corrected=corrected) == pytest.approx(wanted, abs=0.02)


def test_without_a_bias_there_is_no_shift_to_take(rows: Rows) -> None:
    plain = model(bias=False)
    loss = losses(plain, [rounded(plain)], rows)["c"]
    assert loss.shift is None
    assert loss.snr_db(corrected=True) == loss.snr_db()


def test_no_error_is_a_finite_ratio() -> None:
    assert Loss(1.0, 0.0, None).snr_db() == LOSSLESS_DB


@pytest.mark.parametrize("scheme", [CPU, COARSE_TRT], ids=["cpu", "tensorrt"])
def test_biases_take_back_the_shift(rows: Rows, scheme: Scheme) -> None:
    plain = model()
    names = [layer.name for layer in weight_layers(Graph(plain))]
    seen = observe(plain, quantised_values(plain, names, scheme), rows)
    ranges = {name: choose_range(values, "max", symmetric=scheme.symmetric) for name, values in seen.items()}
    shift = losses(plain, [rounded(plain)], rows)["c"].shift
    assert shift is not None
    assert np.abs(shift).max() > 0.02
    expected = outputs(plain, rows, "y").mean((0, 2, 3))
    moved, mended = (
        np.abs(outputs(insert_qdq(plain, names, ranges, scheme, shifts), rows, "y").mean((0, 2, 3)) - expected).max()
        for shifts in (None, {"c": shift})
    )
    assert mended < moved / 3


def test_a_shift_leaves_the_graph_that_is_read_as_it_was(rows: Rows) -> None:
    plain = model()
    before = plain.SerializeToString()
    ranges = {"x": (-4.0, 6.0)}
    insert_qdq(plain, ["c"], ranges, TENSORRT, {"c": np.ones(4)})
    assert plain.SerializeToString() == before
