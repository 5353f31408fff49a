"""The graphs for segmentation as Core ML packages and for TensorRT: run here, compared with PyTorch, and buildable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from clip_edge.bundle import Bundle
from clip_edge.cli import main
from clip_edge.errors import BundleError
from clip_edge.export.exporter import Request, export
from clip_edge.graphs import GRAPHS
from clip_edge.quantization import read_reports
from clip_edge.runtime import Prompt, load
from clip_edge.runtime.tensorrt import plan
from clip_edge.runtime.verify import verify

pytestmark = pytest.mark.slow
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
PROMPTS = (Prompt(points=((30, 20),)), Prompt(points=((20, 20), (40, 30)), inside=(True, False), box=(12, 2, 48, 38)))


@pytest.fixture(name="packages", scope="module")
def _packages(tiny_sure: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "packages"
    export(tiny_sure, [Request("coreml", "fp16"), Request("onnx")], out)
    return out


@pytest.fixture(name="engines", scope="module")
def _engines(tiny_sure: Path, tiny_calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorrt_rtx_bindings")
    out = tmp_path_factory.mktemp("bundle") / "engines"
    requests = [Request("trt-rtx", "fp32"), Request("trt-rtx", "int8"), Request("trt", "fp16")]
    export(tiny_sure, requests, out, calibration=tiny_calibration, capabilities=["sm89"])
    return out


def test_packages_take_one_picture_and_prompt(packages: Path) -> None:
    manifest = Bundle.open(packages).manifest
    found = {item.graph: item for item in manifest.graphs if item.target == "coreml"}
    assert [found[name].path for name in GRAPHS] == [
        "coreml/Encoder_fp16.mlpackage",
        "coreml/ClipHead_fp16.mlpackage",
        "coreml/MaskDecoder_fp16.mlpackage",
    ]
    (picture,) = found["encoder"].inputs
    assert (picture.name, picture.dtype, picture.shape) == ("image", "uint8", (1, 3, 32, 32))
    prompts = [(item.name, item.dtype, item.shape) for item in found["mask_decoder"].inputs[1:]]
    assert prompts == [("points", "float32", (1, None, 2)), ("labels", "int32", (1, None))]
    proof = verify(packages, "mil")
    assert proof.passed
    assert [check.graph for check in proof.graphs] == [*GRAPHS]


def test_inspect_weighs_packages_as_a_whole(packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(packages), "--json", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    for row in facts["graphs"] + facts["graphs_for_segmentation"]:
        path = packages / row["path"]
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        assert row["bytes"] == sum(file.stat().st_size for file in files)


def test_core_ml_outlines_and_names_as_onnx_does(packages: Path) -> None:
    with load(packages, threads=1) as model, load(packages, "mil") as phone:
        view, seen = model.look(PICTURE), phone.look(PICTURE)
        for expected, found in zip(model.masks(view, PROMPTS), phone.masks(seen, PROMPTS), strict=True):
            assert (expected.masks == found.masks).mean() > 0.99
            assert found.iou == pytest.approx(expected.iou, abs=1e-2)
        words = ["a red apple", "a blue car"]
        labels = [one.segment(looked, words).labels for one, looked in ((model, view), (phone, seen))]
        assert (labels[0] == labels[1]).mean() > 0.98


def test_what_fp16_would_spoil_is_reported(packages: Path) -> None:
    reports = read_reports(Bundle.open(packages))
    reasons = {layer.reason for layer in reports["coreml/MaskDecoder_fp16.mlpackage"].layers}
    assert "angles: many turns of a circle leave fp16 no digits" in reasons


def test_a_package_of_another_graph_is_refused(packages: Path, tmp_path: Path) -> None:
    """The manifest says which inputs a graph has; a package that has others is not run."""
    import dataclasses
    import shutil

    shutil.copytree(packages, tmp_path / "b")
    manifest = Bundle.open(packages).manifest
    paths = {item.graph: item.path for item in manifest.graphs if item.target == "coreml"}
    graphs = tuple(
        dataclasses.replace(item, path=paths["clip_head"]) if item.path == paths["mask_decoder"] else item
        for item in manifest.graphs
    )
    (tmp_path / "b" / "manifest.json").write_bytes(dataclasses.replace(manifest, graphs=graphs).to_bytes())
    with load(tmp_path / "b", "mil") as model, pytest.raises(BundleError, match="mil cannot load"):
        model.masks(PICTURE, PROMPTS)


def test_tensorrt_graphs_are_near_and_typed(engines: Path) -> None:
    manifest = Bundle.open(engines).manifest
    assert len(manifest.graphs) == 9
    for item in manifest.graphs:
        assert item.verification is not None
        model = onnx.load(engines / item.path)
        assert model.opset_import[0].version == 19
        assert "Constant" not in {node.op_type for node in model.graph.node}
        if item.graph == "mask_decoder":
            assert model.graph.input[2].type.tensor_type.elem_type == onnx.TensorProto.INT32
    types = onnx.shape_inference.infer_shapes(onnx.load(engines / "trt" / "mask_decoder_fp16.onnx")).graph.value_info
    kinds = {value.name: value.type.tensor_type.elem_type for value in types}
    nodes = onnx.load(engines / "trt" / "mask_decoder_fp16.onnx").graph.node
    assert {kinds[node.output[0]] for node in nodes if node.op_type in ("Sin", "Cos")} == {onnx.TensorProto.FLOAT}


def test_engines_are_there_and_planned(engines: Path) -> None:
    plans = {target: json.loads((engines / target / plan.SEGMENT).read_text()) for target in ("trt", "trt-rtx")}
    for part in plans["trt-rtx"]["graphs"]:
        (engine,) = part["engines"]
        assert engine["capability"] == "sm89"
        assert (engines / engine["path"]).stat().st_size == engine["bytes"]
        assert part["layers"]
    (decoder,) = [part for part in plans["trt"]["graphs"] if part["graph"] == "mask_decoder"]
    assert decoder["engines"] == []
    assert "--minShapes=feature_map:1x16x4x4,points:1x2x2,labels:1x2" in decoder["trtexec"]
    assert "--maxShapes=feature_map:32x16x4x4,points:32x16x2,labels:32x16" in decoder["trtexec"]
