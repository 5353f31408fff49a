"""Export as a whole: the same bytes twice, the right numbers or nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from clip_edge.bundle import GOLDEN, Bundle
from clip_edge.errors import UsageError, VerificationError
from clip_edge.export import onnx as onnx_target
from clip_edge.export.exporter import Request, export, make_golden
from clip_edge.export.job import Job
from clip_edge.export.sources import load_source
from clip_edge.golden import read_golden


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_exports_give_the_same_bytes(tiny_student: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    export(tiny_student, [Request("onnx")], tmp_path / "again")
    first, second = files(tiny_bundle), files(tmp_path / "again")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_the_bundle_has_hugging_faces_layout(tiny_bundle: Path) -> None:
    assert set(files(tiny_bundle)) == {
        "manifest.json",
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "golden.safetensors",
        "onnx/vision_model.onnx",
        "onnx/text_model.onnx",
    }


def test_the_manifest_holds_the_proof_and_the_source(tiny_bundle: Path, tiny_student: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    for artifact, cases in zip(manifest.artifacts, (18, 34), strict=True):
        assert artifact.verification is not None
        assert artifact.verification.backend == "onnxruntime"
        assert artifact.verification.cases >= cases - 2
        assert artifact.verification.min_cosine >= 0.99999
        assert artifact.verification.tolerance == 0.9999
    assert manifest.source.provenance == {"seed": 0}
    assert manifest.source.weights_sha256 == load_source(tiny_student).weights_sha256()
    assert manifest.versions["torch"] == torch.__version__.partition("+")[0] or manifest.versions["torch"]
    assert manifest.embedding.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)


def test_the_references_are_pytorchs(tiny_bundle: Path, tiny_student: Path) -> None:
    stored = read_golden((tiny_bundle / GOLDEN).read_bytes(), Bundle.open(tiny_bundle).manifest, tiny_bundle)
    fresh = make_golden(load_source(tiny_student))
    assert np.allclose(stored.image_embeds, fresh.image_embeds, atol=1e-6)
    assert np.allclose(stored.text_embeds, fresh.text_embeds, atol=1e-6)
    assert stored.texts == fresh.texts
    assert stored.texts[:2] == ("a red apple", "一只猫")


def test_the_weights_hash_ignores_the_scale_only(tiny_student: Path) -> None:
    source = load_source(tiny_student)
    before = source.weights_sha256()
    assert dataclasses.replace(source, logit_scale=1.0).weights_sha256() == before
    with torch.no_grad():
        source.image.projection.weight[0, 0] += 1e-3
    assert source.weights_sha256() != before


def test_wrong_numbers_leave_nothing_behind(
    tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnx_target.write_tower

    def sabotaged(job: Job, path: Path) -> None:
        real(job, path)
        model = onnx.load(path)
        for weight in model.graph.initializer:
            if weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) == 2:
                weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[::-1].copy(), weight.name))
        onnx.save(model, path)

    monkeypatch.setattr(onnx_target, "write_tower", sabotaged)
    out = tmp_path / "bundle"
    with pytest.raises(VerificationError) as caught:
        export(tiny_student, [Request("onnx")], out)
    assert caught.value.exit_code == 1
    assert caught.value.what.startswith("the exported model differs from PyTorch:\n  onnx/vision_model.onnx: cosine ")
    assert list(tmp_path.iterdir()) == []


def test_no_student_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        export(tmp_path / "none", [Request("onnx")], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept(tiny_student: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="the output folder exists"):
        export(tiny_student, [Request("onnx")], tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"
