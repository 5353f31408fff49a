"""Which layers TensorRT gets in 8 bits, when the fp16 around them costs more than was left for it."""

from collections.abc import Collection
from pathlib import Path

import onnx
import pytest

from clip_edge.bundle import Bundle
from clip_edge.export.exporter import Request, export
from clip_edge.export.job import Job
from clip_edge.export.quantize.judge import Judge
from clip_edge.export.rows import Rows
from clip_edge.export.tensorrt import eight_bits
from clip_edge.numerics import TOLERANCES


def test_layers_are_chosen_again_with_more_to_spare(
    tiny_student: Path, tiny_calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[float] = []
    halves: list[onnx.ModelProto] = []

    def judge(reference: onnx.ModelProto, rows: Rows, tolerance: float, *, fuse: bool = True) -> Judge:
        wanted.append(tolerance)
        return Judge(reference, rows, tolerance, fuse=fuse)

    real = eight_bits.nearest_half

    def nearest_half(
        model: onnx.ModelProto, reference: onnx.ModelProto, large: Collection[str], rows: Rows, job: Job
    ) -> onnx.ModelProto:
        half = real(model, reference, large, rows, job)
        if not halves:  # of the first tower, at its first try: every embedding is turned around
            (result,) = half.graph.output
            for node in half.graph.node:
                node.output[:] = ["turned" if name == result.name else name for name in node.output]
            half.graph.node.append(onnx.helper.make_node("Neg", ["turned"], [result.name], "turn"))
        halves.append(half)
        return half

    monkeypatch.setattr(eight_bits, "Judge", judge)
    monkeypatch.setattr(eight_bits, "nearest_half", nearest_half)
    out = tmp_path / "bundle"
    export(tiny_student, [Request("trt", "int8")], out, calibration=tiny_calibration)
    tolerance = TOLERANCES["int8"].min_cosine
    assert wanted == [tolerance, tolerance + 0.0015, tolerance]  # one tower twice, the other once
    assert len(halves) == 3
    for artifact in Bundle.open(out).manifest.artifacts:
        assert artifact.verification is not None
        assert artifact.verification.min_cosine >= tolerance
