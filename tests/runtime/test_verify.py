"""The verifier finds what is wrong: graphs, preprocessing, tokens, NaN, lengths, batches."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from clip_edge.bundle import GOLDEN, MANIFEST, TOKENIZER, Bundle, Manifest, list_files
from clip_edge.errors import BundleError
from clip_edge.golden import read_golden
from clip_edge.runtime.verify import verify


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def sign(bundle: Path, manifest: Manifest) -> None:
    """Make the manifest fit the files again: what is wrong now is wrong in the numbers only."""
    (bundle / MANIFEST).write_bytes(dataclasses.replace(manifest, files=list_files(bundle)).to_bytes())


def change_graph(bundle: Path, name: str, factor: float) -> None:
    """Multiply one weight of a graph."""
    path = bundle / "onnx" / name
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    changed = numpy_helper.to_array(weight) * np.float32(factor)
    weight.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), weight.name))
    onnx.save(model, path)


def test_a_good_bundle_passes(tiny_bundle: Path) -> None:
    proof = verify(tiny_bundle, threads=1)
    assert proof.passed
    assert proof.problems == []
    assert [(check.tower, check.precision) for check in proof.towers] == [("image", "fp32"), ("text", "fp32")]
    assert all(0.99999 < check.min_cosine <= check.mean_cosine for check in proof.towers)
    assert all(check.max_abs < 1e-5 for check in proof.towers)
    assert proof.top1_agreement == {"fp32": 1.0}
    assert proof.preprocess_max_grey == 0


@pytest.mark.parametrize(("name", "tower"), [("vision_model.onnx", 0), ("text_model.onnx", 1)])
def test_wrong_weights_are_found(bundle: Path, name: str, tower: int) -> None:
    manifest = Bundle.open(bundle).manifest
    change_graph(bundle, name, -1.0)
    sign(bundle, manifest)
    proof = verify(bundle, threads=1)
    assert not proof.passed
    assert proof.problems[0].startswith(f"onnx/{name}: cosine ")
    assert [check.passed for check in proof.towers] == [tower != 0, tower != 1]


def test_nan_is_found(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    change_graph(bundle, "vision_model.onnx", float("nan"))
    sign(bundle, manifest)
    assert verify(bundle, threads=1).problems[0].startswith("onnx/vision_model.onnx: NaN or infinity in ")


def test_another_resize_filter_is_found(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    bilinear = dataclasses.replace(manifest.image.preprocess, interpolation="bilinear")
    sign(bundle, dataclasses.replace(manifest, image=dataclasses.replace(manifest.image, preprocess=bilinear)))
    proof = verify(bundle, threads=1)
    assert proof.preprocess_max_grey > 10
    assert proof.problems == [f"preprocessing differs by {proof.preprocess_max_grey} grey levels, 1 allowed"]


def test_another_mean_is_found(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    shifted = dataclasses.replace(manifest.image.preprocess, mean=(0.0, 0.0, 0.0))
    sign(bundle, dataclasses.replace(manifest, image=dataclasses.replace(manifest.image, preprocess=shifted)))
    assert verify(bundle, threads=1).problems[0].startswith("onnx/vision_model.onnx: cosine ")


def test_another_tokenizer_is_found(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    padded = dataclasses.replace(manifest.text.tokenizer, bos_id=manifest.text.tokenizer.eos_id)
    sign(bundle, dataclasses.replace(manifest, text=dataclasses.replace(manifest.text, tokenizer=padded)))
    proof = verify(bundle, threads=1)
    assert proof.problems == [f"token ids differ in {proof.token_rows_different} sentences"]


def test_a_graph_that_is_no_graph(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    (bundle / "onnx" / "text_model.onnx").write_bytes(b"this is no graph")
    sign(bundle, manifest)
    with pytest.raises(BundleError) as caught:
        verify(bundle)
    assert caught.value.what.startswith("onnxruntime ")
    assert "cannot load onnx/text_model.onnx: " in caught.value.what


def test_swapped_graphs_are_found_by_their_names(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    image, text = (bundle / "onnx" / name for name in ("vision_model.onnx", "text_model.onnx"))
    first, second = image.read_bytes(), text.read_bytes()
    image.write_bytes(second)
    text.write_bytes(first)
    sign(bundle, manifest)
    with pytest.raises(BundleError, match="must map `pixel_values` to `image_embeds`; found"):
        verify(bundle)


def test_another_width_is_found(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    golden = read_golden((bundle / GOLDEN).read_bytes(), manifest, bundle)
    narrow = dataclasses.replace(
        golden, image_embeds=golden.image_embeds[:, :20].copy(), text_embeds=golden.text_embeds[:, :20].copy()
    )
    (bundle / GOLDEN).write_bytes(narrow.to_bytes())
    sign(bundle, dataclasses.replace(manifest, embedding=dataclasses.replace(manifest.embedding, dim=20)))
    with pytest.raises(
        BundleError, match=r"onnx/vision_model\.onnx must give float32 \(1, 20\); found float32 \(1, 24\)"
    ):
        verify(bundle)


def test_a_tokenizer_that_is_none(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    (bundle / TOKENIZER).write_bytes(b"{}")
    sign(bundle, manifest)
    with pytest.raises(Exception, match="not a tokenizers file") as caught:
        verify(bundle)
    assert caught.value.exit_code == 1  # type: ignore[attr-defined]


def test_nothing_for_this_backend(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    artifacts = tuple(dataclasses.replace(artifact, target="coreml") for artifact in manifest.artifacts)
    sign(bundle, dataclasses.replace(manifest, artifacts=artifacts))
    with pytest.raises(BundleError) as caught:
        verify(bundle)
    assert caught.value.what == "nothing in the bundle runs on `onnxruntime`"
    assert caught.value.hint == "export it again with --target onnx"
