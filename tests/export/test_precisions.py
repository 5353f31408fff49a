"""Target `onnx` in every precision: near PyTorch, the same bytes twice, and refused in words where it must be."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from clip_edge.bundle import GOLDEN, TOWERS, Bundle
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.samples import Sample
from clip_edge.distill.models.checkpoint import save_student
from clip_edge.distill.models.spec import ImageSpec, StudentSpec, TextTowerSpec, TokenizerSpec
from clip_edge.distill.models.student import build_student
from clip_edge.distill.models.tokenizers import train_tokenizer
from clip_edge.errors import DataError
from clip_edge.export.calibration import load_calibration
from clip_edge.export.exporter import Request, export
from clip_edge.export.sources import load_source
from clip_edge.golden import read_golden
from clip_edge.numerics import TOLERANCES, cosine_rows
from clip_edge.quantization import read_quantization
from clip_edge.runtime import load

pytestmark = pytest.mark.slow
PRECISIONS = ("fp16", "int8", "int4")


@pytest.fixture(name="student", scope="module")
def _student(tiny_emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FastViT of 32 pixels, with layer scales, norms and a vocabulary as training would leave them."""
    captions = [text for sample in _samples(tiny_emoji) for texts in sample.captions.values() for text in texts]
    tokenizer = train_tokenizer(captions, 400, 24)
    spec = StudentSpec(
        name="tiny-fastvit",
        embed_dim=32,
        image=ImageSpec("timm:fastvit_t8", 32, args={"layers": [1, 1, 1, 1], "embed_dims": [16, 32, 64, 128]}),
        text=TextTowerSpec(depth=1, width=64, heads=2, context_length=24, causal=True, pad_mask=True, mixer_kernel=5),
        tokenizer=TokenizerSpec("trained", tokenizer.spec.vocab_size),
    )
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = build_student(spec, tokenizer)
    for name, value in (*student.named_parameters(), *student.named_buffers()):
        if "gamma" in name or "layer_scale" in name or name.endswith("running_var"):
            value.data.copy_(0.3 + torch.rand(value.shape, generator=random))
    folder = tmp_path_factory.mktemp("student") / "fastvit"
    folder.mkdir()
    save_student(folder, student, tokenizer, recipe_toml="", metrics=None, provenance={})
    return folder


def _samples(data: Path) -> list[Sample]:
    dataset = open_dataset(data)
    return [dataset.sample(index) for index in range(len(dataset))]


@pytest.fixture(name="bundle", scope="module")
def _bundle(student: Path, tiny_emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "all"
    requests = [Request("onnx", precision) for precision in ("fp32", *PRECISIONS)]  # type: ignore[arg-type]
    export(student, requests, out, calibration=tiny_emoji)
    return out


def test_every_precision_holds_its_tolerance(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    golden = read_golden((bundle / GOLDEN).read_bytes(), opened.manifest, bundle)
    for precision in PRECISIONS:
        with load(bundle, precision=precision, threads=1) as model:
            for found, expected in (
                (model.encode_images(list(golden.images)), golden.image_embeds),
                (model.encode_texts(golden.texts), golden.text_embeds),
            ):
                assert cosine_rows(found, expected).min() >= TOLERANCES[precision].min_cosine


def test_lower_precisions_are_smaller(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    for tower in TOWERS:
        sizes = [
            opened.manifest.files[opened.manifest.artifact(tower, ["onnx"], precision).path].bytes
            for precision in ("fp32", *PRECISIONS)
        ]
        assert max(sizes[1:]) < sizes[0]


def test_graphs_keep_float_ends_and_standard_operations(bundle: Path) -> None:
    for artifact in Bundle.open(bundle).manifest.artifacts:
        model = onnx.load(bundle / artifact.path)
        assert [(item.domain, item.version) for item in model.opset_import] == [("", artifact.opset)]
        assert artifact.opset == {"int8": 20, "int4": 21}.get(artifact.precision, 18)
        kinds = [value.type.tensor_type.elem_type for value in (model.graph.input[0], model.graph.output[0])]
        wanted = onnx.TensorProto.FLOAT if artifact.tower == "image" else onnx.TensorProto.INT64
        assert kinds == [wanted, onnx.TensorProto.FLOAT]


def test_no_range_is_measured_at_run_time(bundle: Path) -> None:
    for artifact in Bundle.open(bundle).manifest.artifacts:
        operations = {node.op_type for node in onnx.load(bundle / artifact.path).graph.node}
        assert not operations & {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}


def test_rows_do_not_depend_on_their_neighbours(bundle: Path) -> None:
    """Ranges measured on each batch (dynamic quantisation) would let one picture change another's embedding."""
    random = np.random.default_rng(0)
    for artifact in Bundle.open(bundle).manifest.artifacts:
        session = ort.InferenceSession(bundle / artifact.path, providers=["CPUExecutionProvider"])
        (source,) = session.get_inputs()
        shape = (4, *source.shape[1:])
        rows = random.normal(size=shape) if artifact.tower == "image" else random.integers(3, 200, shape)
        rows = rows.astype(np.float32 if artifact.tower == "image" else np.int64)
        (together,) = session.run(None, {source.name: rows})
        (alone,) = session.run(None, {source.name: rows[1:2]})
        assert np.abs(together[1] - alone[0]).max() < 2e-3


def test_fp16_keeps_normalisations_and_softmax_in_fp32(bundle: Path) -> None:
    for tower in TOWERS:
        artifact = Bundle.open(bundle).manifest.artifact(tower, ["onnx"], "fp16")
        model = onnx.shape_inference.infer_shapes(onnx.load(bundle / artifact.path))
        kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
        safe = [node for node in model.graph.node if node.op_type in ("LayerNormalization", "Softmax", "ReduceL2")]
        assert safe
        assert {kinds[node.output[0]] for node in safe} == {onnx.TensorProto.FLOAT}
        assert onnx.TensorProto.FLOAT16 in kinds.values()


def test_the_report_names_every_layer(bundle: Path) -> None:
    for artifact in Bundle.open(bundle).manifest.artifacts:
        if artifact.precision == "fp32":
            assert artifact.quantization is None
            continue
        assert artifact.quantization is not None
        path = bundle / artifact.quantization
        report = read_quantization(path.read_bytes(), path)
        assert report.precision == artifact.precision
        assert artifact.precision in {layer.precision for layer in report.layers}
        assert all(layer.reason for layer in report.layers)
        assert sum(layer.weight_bytes for layer in report.layers) <= (bundle / artifact.path).stat().st_size
        measured = [layer.snr_db for layer in report.layers if layer.snr_db is not None]
        assert min(measured) > (10 if artifact.precision == "int4" else 20)
        assert report.min_cosine >= TOLERANCES[artifact.precision].min_cosine


def test_attention_masks_are_finite_in_fp16(bundle: Path) -> None:
    artifact = Bundle.open(bundle).manifest.artifact("text", ["onnx"], "fp16")
    model = onnx.load(bundle / artifact.path)
    for tensor in model.graph.initializer:
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
            value = onnx.numpy_helper.to_array(tensor)
            assert np.isfinite(value).all()
            assert np.abs(value).max(initial=0) < 65504


def test_the_same_student_gives_the_same_bytes(bundle: Path, student: Path, tiny_emoji: Path, tmp_path: Path) -> None:
    requests = [Request("onnx", "int8")]
    export(student, requests, tmp_path / "again", calibration=tiny_emoji)
    for name in ("onnx/vision_model_int8.onnx", "onnx/text_model_int8.onnx"):
        assert (tmp_path / "again" / name).read_bytes() == (bundle / name).read_bytes()


def _table(folder: Path, texts: list[str]) -> Path:
    from PIL import Image

    folder.mkdir()
    lines = ["image\tcaption"]
    for index, text in enumerate(texts):
        Image.new("RGB", (40, 40), (index * 5 % 256, 90, 10)).save(folder / f"{index}.png")
        lines.append(f"{index}.png\t{text}")
    (folder / "data.tsv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "data.tsv"


def test_too_few_samples_are_refused(tiny_student: Path, tmp_path: Path) -> None:
    data = _table(tmp_path / "few", ["a red apple"] * 5)
    with pytest.raises(DataError, match="calibration needs at least 32 samples; found 5"):
        load_calibration(data, load_source(tiny_student))


def test_a_language_without_words_is_named(tiny_student: Path, tmp_path: Path) -> None:
    data = _table(tmp_path / "georgian", [f"წითელი ვაშლი მაგიდაზე {index}" for index in range(40)])
    source = load_source(tiny_student)
    with pytest.raises(DataError, match="has no words of the language of 40 of 40 sentences, such as `წითელი ვაშლი"):
        load_calibration(data, source)
    untrained = dataclasses.replace(source, provenance={"weights": "random"})  # it has learned no language
    assert len(load_calibration(data, untrained).input_ids) == 40


def test_reports_are_json_that_reads_back(bundle: Path) -> None:
    for path in sorted(bundle.rglob("*.quantization.json")):
        value = json.loads(path.read_text())
        assert value["schema"] == 1
        assert read_quantization(path.read_bytes(), path).to_bytes() == path.read_bytes()
