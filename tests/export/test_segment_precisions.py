"""Encoder, CLIP head and mask decoder in lower precisions: near PyTorch, smaller, verified and reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from clip_edge.bundle import Bundle
from clip_edge.cli import main
from clip_edge.export.exporter import Request, export
from clip_edge.graphs import GRAPHS
from clip_edge.numerics import TOLERANCES
from clip_edge.quantization import read_reports
from clip_edge.runtime import load
from clip_edge.runtime.verify import verify
from clip_edge.runtime.verify_graphs import MIN_MASK_IOU

PRECISIONS = ("fp16", "int8", "int4")


@pytest.fixture(name="bundles", scope="module")
def _bundles(tiny_sure: Path, tiny_calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One bundle with every lower precision, encoder and heads."""
    out = tmp_path_factory.mktemp("bundle") / "precisions"
    export(tiny_sure, [Request("onnx", precision) for precision in PRECISIONS], out, calibration=tiny_calibration)  # type: ignore[arg-type]
    return out


def test_every_graph_has_every_precision(bundles: Path) -> None:
    manifest = Bundle.open(bundles).manifest
    found = {(item.graph, item.precision): item for item in manifest.graphs}
    assert set(found) == {(graph, precision) for graph in GRAPHS for precision in PRECISIONS}
    for (graph, precision), item in found.items():
        assert item.path == f"onnx/{graph}_{precision}.onnx"
        assert item.verification is not None
        assert item.verification.min_cosine >= TOLERANCES[precision].min_cosine
        assert item.opset == {"fp16": 18, "int8": 20, "int4": 21}[precision]


def test_verify_passes_and_knows_the_masks(bundles: Path) -> None:
    for precision in PRECISIONS:
        proof = verify(bundles, threads=1, precision=precision)
        assert proof.passed
        assert [check.precision for check in proof.graphs] == [precision] * 3
        (overlap,) = [check.min_mask_iou for check in proof.graphs if check.min_mask_iou is not None]
        assert overlap >= MIN_MASK_IOU


def test_the_runtime_takes_the_precision_asked_for(bundles: Path) -> None:
    picture = (torch.rand(40, 40, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    with load(bundles, precision="int4", threads=1) as model:
        labels = model.segment(picture, ["a red apple", "a dog"]).labels
    assert labels.shape == (40, 40)


def test_reports_name_the_layers_of_each_graph(bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = read_reports(Bundle.open(bundles))
    for precision in PRECISIONS:
        for graph in GRAPHS:
            report = reports[f"onnx/{graph}_{precision}.onnx"]
            assert report.precision == precision
            assert any(layer.precision == precision for layer in report.layers)
            assert report.min_cosine >= TOLERANCES[precision].min_cosine
    decoder = {layer.name: layer for layer in reports["onnx/mask_decoder_int8.onnx"].layers}
    assert (decoder["kinds"].precision, decoder["kinds"].reason) == ("fp32", "too small to gain")
    angles = {layer.name: layer for layer in reports["onnx/mask_decoder_fp16.onnx"].layers}["frequencies"]
    assert (angles.precision, angles.reason) == ("fp32", "kept: angles and lengths need fp32")
    assert main(["inspect", str(bundles), "--quantization", "--json", "-"]) == 0
    shown = json.loads(capsys.readouterr().out)["reports"]
    assert "onnx/clip_head_int4.onnx" in shown
