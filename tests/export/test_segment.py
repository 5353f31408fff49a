"""Encoder, CLIP head and mask decoder as graphs: equal to PyTorch, any batch, or a clear refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from clip_edge.bundle import Bundle
from clip_edge.errors import BundleError, ConfigError
from clip_edge.export.exporter import Request, export
from clip_edge.export.segment import parts_to_write
from clip_edge.export.sources import load_source
from clip_edge.export.targets import TARGETS
from clip_edge.runtime.backends import Options, open_graph


def test_a_merged_student_always_has_its_graphs(tiny_segment_bundle: Path) -> None:
    manifest = Bundle.open(tiny_segment_bundle).manifest
    assert [(item.tower, item.path) for item in manifest.artifacts] == [
        ("image", "onnx/vision_model.onnx"),
        ("text", "onnx/text_model.onnx"),
    ]
    assert [(item.graph, item.path) for item in manifest.graphs] == [
        ("encoder", "onnx/encoder.onnx"),
        ("clip_head", "onnx/clip_head.onnx"),
        ("mask_decoder", "onnx/mask_decoder.onnx"),
    ]
    for item in manifest.graphs:
        assert item.verification is not None
        assert item.verification.min_cosine >= 0.99999
        model = onnx.load(tiny_segment_bundle / item.path)
        assert [value.name for value in model.graph.input] == [tensor.name for tensor in item.inputs]
        assert [value.name for value in model.graph.output] == [tensor.name for tensor in item.outputs]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_chain_equals_pytorch(batch: int, tiny_merged: Path, tiny_segment_bundle: Path) -> None:
    student = load_source(tiny_merged).student
    assert student is not None
    assert student.masks is not None
    bundle = Bundle.open(tiny_segment_bundle)
    encoder, head, decoder = (open_graph("onnxruntime", bundle, item, Options(1)) for item in bundle.manifest.graphs)
    pixels = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    points = torch.rand(batch, 5, 2, generator=torch.Generator().manual_seed(2))  # more points than were traced
    labels = torch.tensor([[1, 0, 2, 3, -1]]).expand(batch, -1)
    found_map = encoder({"pixel_values": pixels.numpy()})["feature_map"]
    embeds = head({"feature_map": found_map})
    masks = decoder({"feature_map": found_map, "points": points.numpy(), "labels": labels.numpy()})
    with torch.inference_mode():
        features = student.image.trunk(pixels)
        expected_masks, expected_iou = student.masks(features, points, labels)
        assert embeds["image_embeds"] == pytest.approx(student.encode_image(pixels).numpy(), abs=1e-5)
    assert found_map == pytest.approx(features.numpy(), abs=1e-4)
    assert masks["mask_logits"] == pytest.approx(expected_masks.numpy(), abs=1e-4)
    assert masks["iou"] == pytest.approx(expected_iou.numpy(), abs=1e-4)
    assert np.linalg.norm(embeds["patch_embeds"], axis=1) == pytest.approx(np.ones((batch, 4, 4)), abs=1e-5)


def test_plain_students_have_them_when_asked(tiny_student: Path, tmp_path: Path) -> None:
    bundle, _ = export(tiny_student, [Request("onnx", "fp32"), Request("onnx", "fp16")], tmp_path / "b", segment=True)
    manifest = bundle.manifest
    assert [item.path for item in manifest.graphs] == [
        "onnx/encoder.onnx",
        "onnx/clip_head.onnx",
        "onnx/encoder_fp16.onnx",
        "onnx/clip_head_fp16.onnx",
    ]
    assert manifest.graph("encoder", ["onnx"], "fp16").path == "onnx/encoder_fp16.onnx"
    assert manifest.graph("clip_head", ["onnx"], "int8").path == "onnx/clip_head.onnx"  # it has none
    with pytest.raises(BundleError) as caught:
        manifest.graph("mask_decoder", ["onnx"])
    assert str(caught.value) == (
        "the bundle has no graph `mask_decoder` for target `onnx`"
        "\n\nhint: the student has no mask head: `clip-edge distill sam-clip` trains one that has"
    )


def test_bundles_without_say_how_to_get_them(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError) as caught:
        Bundle.open(tiny_bundle).manifest.graph("encoder", ["onnx"])
    assert str(caught.value) == (
        "the bundle has no graph `encoder` for target `onnx`\n\nhint: export it again with --target onnx --segment"
    )


def test_what_cannot_be_cut_is_refused(tiny_student: Path, tiny_open_clip: Path) -> None:
    foreign = load_source(f"open_clip:{tiny_open_clip}")
    with pytest.raises(ConfigError) as caught:
        parts_to_write(foreign, {"onnx": TARGETS["onnx"]}, asked=True)
    assert str(caught.value) == (
        "this model cannot be cut into an encoder and a head that sees single places\n"
        f"  in: open_clip:{tiny_open_clip}\n"
        "\nhint: --segment works with student folders whose image tower does not pool by attention"
    )
    source = load_source(tiny_student)
    assert parts_to_write(source, {"onnx": TARGETS["onnx"]}, asked=False) is None
    with pytest.raises(ConfigError) as caught:
        parts_to_write(source, {"coreml-multifunction": TARGETS["coreml-multifunction"]}, asked=True)
    assert str(caught.value) == (
        "no graphs for segmentation for target `coreml-multifunction`\n\nhint: add --target onnx, which has them"
    )
