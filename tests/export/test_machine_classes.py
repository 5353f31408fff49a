"""int8 by kind of processor: what saturates where."""

from __future__ import annotations

import dataclasses
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clip_edge.export.quantize.int8 import RIGHT_ON, SCHEMES
from clip_edge.export.quantize.qdq import insert_qdq
from clip_edge.quantization import Machine, Quantization, unfit

INNER = 64
RUN_S = 180
PROGRAM = f"""
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 4
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print(float(session.run(None, dict(x=numpy.full((4, {INNER}), 2, numpy.float32)))[0].min()))
"""


def largest_sums(machine: Machine) -> onnx.ModelProto:
    """x @ weight with every weight and every activation at the end of its range; all sums are 2 * INNER."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "layer.weight"], ["y"])],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", INNER])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 32])],
        [numpy_helper.from_array(np.ones((INNER, 32), np.float32), "layer.weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return insert_qdq(model, ["layer"], {"x": (0.0, 2.0)}, SCHEMES[machine])


@pytest.mark.parametrize("machine", SCHEMES)
def test_pairs_of_products_fit_where_they_must(machine: Machine) -> None:
    """vpmaddubsw adds two products of uint8 and int8 in 16 bits."""
    fits = 2 * 255 * SCHEMES[machine].weight_max <= np.iinfo(np.int16).max
    assert fits == (machine in ("any", "x86"))
    assert ("saturate" in RIGHT_ON[machine]) != fits


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "expected"), [("any", 2.0 * INNER), ("x86-vnni", 64.755)])
def test_sums_on_a_processor_without_vnni(machine: Machine, expected: float, tmp_path: Path) -> None:
    """ONNX Runtime on an emulated Haswell: 127 steps give half of the sum, and no error; 64 steps are right."""
    qemu = shutil.which("qemu-x86_64")
    if qemu is None or platform.machine() != "x86_64":
        pytest.skip("needs an x86-64 interpreter and qemu-x86_64 (Debian: qemu-user)")
    onnx.save(largest_sums(machine), tmp_path / "sums.onnx")
    words = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path / "sums.onnx")]
    here = subprocess.run(words, capture_output=True, text=True, timeout=RUN_S)
    there = subprocess.run([qemu, "-cpu", "Haswell", *words], capture_output=True, text=True, timeout=RUN_S)
    assert here.returncode == there.returncode == 0, there.stderr
    assert float(there.stdout) == pytest.approx(expected, abs=0.01)
    if machine == "any":
        assert float(here.stdout) == pytest.approx(expected, abs=0.01)


def test_a_graph_for_another_processor_is_told() -> None:
    report = Quantization(1, "int8", "", 64, 64, 0.99, ())
    reports = {"onnx/a.onnx": report, "onnx/b.onnx": dataclasses.replace(report, machine="x86-vnni")}
    assert unfit(reports, "x86-vnni") == unfit(reports, "arm") == []
    assert unfit(reports, "x86") == [
        "onnx/b.onnx was made with --machine x86-vnni, and this processor has no VNNI: its sums can saturate; "
        "export it with --machine x86"
    ]
