"""What targets `trt` and `trt-rtx` write: strongly typed graphs, plans that agree with them, engines that are whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clip_edge.bundle import TOWERS, Bundle
from clip_edge.errors import UsageError
from clip_edge.export.exporter import Request, export
from clip_edge.export.tensorrt.precisions import typed
from clip_edge.runtime.tensorrt.plan import parse_plan

GRAPHS = [
    f"{folder}/{stem}{suffix}.onnx"
    for folder in ("trt", "trt-rtx")
    for stem in ("vision_model", "text_model")
    for suffix in ("", "_fp16", "_int8")
]


@pytest.mark.parametrize("path", GRAPHS)
def test_graphs_are_what_every_tensorrt_reads(tiny_trt_bundle: Path, path: str) -> None:
    model = onnx.load(tiny_trt_bundle / path)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 19)]
    operations = {node.op_type for node in model.graph.node}
    assert not operations & {"If", "Loop", "Scan", "NonZero", "BatchNormalization", "Dropout", "Constant"}
    source, result = model.graph.input[0].type.tensor_type, model.graph.output[0].type.tensor_type
    assert source.elem_type == (TensorProto.INT32 if "text" in path else TensorProto.FLOAT)
    assert result.elem_type == TensorProto.FLOAT
    assert source.shape.dim[0].dim_param == result.shape.dim[0].dim_param == "batch"
    for constant in model.graph.initializer:
        assert not constant.external_data
        values = numpy_helper.to_array(constant)
        assert np.isfinite(values.astype(np.float32)).all()


@pytest.mark.parametrize("path", [path for path in GRAPHS if "int8" in path])
def test_quantised_graphs_keep_what_must_stay(tiny_trt_bundle: Path, path: str) -> None:
    model = onnx.load(tiny_trt_bundle / path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert constants[node.input[1]].data_type == TensorProto.FLOAT16
            zero = constants[node.input[2]]
            assert zero.data_type == TensorProto.INT8  # never the int32 of a bias, which the parser refuses
            assert not numpy_helper.to_array(zero).any()
        elif node.op_type in ("Softmax", "LayerNormalization"):
            assert makers[node.input[0]].op_type != "DequantizeLinear"
        elif node.op_type == "Conv":
            weight = makers.get(node.input[1])
            group = next((item.i for item in node.attribute if item.name == "group"), 1)
            if group > 1:
                assert weight is None  # depthwise
            elif weight is not None:
                assert len(constants[weight.input[1]].dims) == 1  # a scale for each output channel
            if len(node.input) > 2:
                assert constants[node.input[2]].data_type == TensorProto.FLOAT16


@pytest.mark.parametrize("target", ["trt", "trt-rtx"])
def test_the_plan_agrees_with_the_bundle(tiny_trt_bundle: Path, target: str) -> None:
    path = tiny_trt_bundle / target / "build.json"
    plan, manifest = parse_plan(path.read_bytes(), path), Bundle.open(tiny_trt_bundle).manifest
    artifacts = {item.path: item for item in manifest.artifacts if item.target == target}
    assert plan.target == target
    assert {graph.path for graph in plan.graphs} == set(artifacts)
    for graph in plan.graphs:
        assert graph.sha256 == manifest.files[graph.path].sha256
        assert [(profile.min, profile.opt, profile.max) for profile in graph.profiles] == [(1, 1, 1), (1, 8, 32)]
        assert graph.workspace_bytes == 1024**3
        assert not graph.tf32
        engines = [engine.path for engine in graph.engines]
        expected = [graph.path.replace(".onnx", ".sm89.engine")] if target == "trt-rtx" else []
        assert engines == expected
        assert all(manifest.files[name].bytes > 100_000 for name in engines)


def test_the_command_builds_what_the_plan_says(tiny_trt_bundle: Path) -> None:
    plan = json.loads((tiny_trt_bundle / "trt" / "build.json").read_text())
    line = next(graph["trtexec"] for graph in plan["graphs"] if graph["path"] == "trt/text_model_int8.onnx")
    assert line.split() == [
        "trtexec",
        "--onnx=trt/text_model_int8.onnx",
        "--stronglyTyped",
        "--noTF32",
        "--profile=0",
        "--minShapes=input_ids:1x16",
        "--optShapes=input_ids:1x16",
        "--maxShapes=input_ids:1x16",
        "--profile=1",
        "--minShapes=input_ids:1x16",
        "--optShapes=input_ids:8x16",
        "--maxShapes=input_ids:32x16",
        "--memPoolSize=workspace:1024M",
        "--builderOptimizationLevel=3",
        "--timingCacheFile=timing.cache",
        "--profilingVerbosity=detailed",
        "--skipInference",
        "--saveEngine=text_model_int8.engine",
    ]


def test_every_artifact_was_proved(tiny_trt_bundle: Path) -> None:
    artifacts = Bundle.open(tiny_trt_bundle).manifest.artifacts
    assert len(artifacts) == len(GRAPHS)
    for artifact in artifacts:
        assert artifact.verification is not None
        assert artifact.verification.min_cosine >= artifact.verification.tolerance


def test_the_report_names_every_layer_and_why(tiny_trt_bundle: Path) -> None:
    from clip_edge.quantization import read_quantization

    bundle = Bundle.open(tiny_trt_bundle)
    for tower in TOWERS:
        artifact = bundle.manifest.artifact(tower, ["trt"], "int8")
        assert artifact.quantization is not None
        report = read_quantization(bundle.read(artifact.quantization, 1 << 20), tiny_trt_bundle)
        assert report.min_cosine >= 0.99
        for layer in report.layers:
            assert layer.precision in ("int8", "fp16")
            assert (layer.precision == "int8") == (layer.reason == "chosen")
            assert layer.precision == "fp16" or (layer.snr_db is not None and layer.snr_db > 10)
    assert {layer.name for layer in report.layers if layer.reason.startswith("embedding")} == {"text.token_embedding"}


def test_an_unknown_gpu_is_refused(tiny_student: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    with pytest.raises(UsageError, match="unknown compute capability: `sm90`") as caught:
        export(tiny_student, [Request("trt-rtx")], tmp_path / "out", capabilities=["sm90"])
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("known: sm120, sm121, sm75, sm80, sm86, sm89")
    assert list(tmp_path.iterdir()) == []


def test_constants_have_one_form() -> None:
    value = numpy_helper.from_array(np.eye(8, dtype=np.float32), "inner")
    nodes = [
        helper.make_node("Constant", [], ["w"], value=value),
        helper.make_node("MatMul", ["x", "w"], ["y"], "product"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "tower", ends[:1], ends[1:]))
    model = typed(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    (constant,) = model.graph.initializer
    assert constant.name == "w"
    assert (numpy_helper.to_array(constant) == np.eye(8)).all()
