"""The proof of the graphs for segmentation passes on what was exported and fails on anything else."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from clip_edge.bundle import MANIFEST, Bundle, list_files
from clip_edge.errors import UsageError
from clip_edge.golden_graphs import GOLDEN_GRAPHS, GraphGolden, read_graph_golden
from clip_edge.runtime.backends import Options, open_graph
from clip_edge.runtime.verify import verify


def changed(bundle: Path, out: Path, name: str, values: np.ndarray) -> Path:
    """A copy whose reference `name` holds other values, listed as if it had been made so."""
    shutil.copytree(bundle, out)
    manifest = Bundle.open(out).manifest
    tensors = dict(read_graph_golden((out / GOLDEN_GRAPHS).read_bytes(), manifest, out).tensors)
    (out / GOLDEN_GRAPHS).write_bytes(GraphGolden(tensors | {name: values}).to_bytes())
    (out / MANIFEST).write_bytes(dataclasses.replace(manifest, files=list_files(out)).to_bytes())
    return out


def test_every_graph_passes(tiny_segment_bundle: Path) -> None:
    proof = verify(tiny_segment_bundle, threads=1)
    assert [check.graph for check in proof.graphs] == ["encoder", "clip_head", "mask_decoder"]
    assert proof.passed
    assert [check.min_mask_iou for check in proof.graphs] == [None, None, 1.0]


def test_other_numbers_are_named(tiny_segment_bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(tiny_segment_bundle).manifest
    path = tiny_segment_bundle / GOLDEN_GRAPHS
    logits = read_graph_golden(path.read_bytes(), manifest, path).tensors["mask_logits"]
    proof = verify(changed(tiny_segment_bundle, tmp_path / "b", "mask_logits", -logits), threads=1)
    (problem,) = proof.problems
    assert problem == "onnx/mask_decoder.onnx: cosine -1.000000 on a golden picture, at least 0.9999 expected"


def test_masks_are_judged_by_their_overlap(tiny_segment_bundle: Path, tmp_path: Path) -> None:
    """Logits that lie just on the other side of 0 have the same cosine and other masks."""
    manifest = Bundle.open(tiny_segment_bundle).manifest
    path = tiny_segment_bundle / GOLDEN_GRAPHS
    logits = read_graph_golden(path.read_bytes(), manifest, path).tensors["mask_logits"].copy()
    smallest = np.sort(np.abs(logits[0, 0]).ravel())[logits[0, 0].size // 50]
    near = np.abs(logits[0, 0]) <= smallest
    logits[0, 0][near] *= -1
    proof = verify(changed(tiny_segment_bundle, tmp_path / "b", "mask_logits", logits), threads=1)
    (check,) = [item for item in proof.graphs if item.graph == "mask_decoder"]
    assert check.min_cosine > 0.9999
    assert check.min_mask_iou is not None
    assert check.min_mask_iou < 0.99
    assert check.problem == f"mask IoU {check.min_mask_iou:.4f} on a golden picture, at least 0.99 expected"


def test_backends_without_graphs_say_so(tiny_segment_bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    bundle = Bundle.open(tiny_segment_bundle)
    with pytest.raises(UsageError) as caught:
        open_graph("tensorrt-rtx", bundle, bundle.manifest.graphs[0], Options(1))
    assert str(caught.value) == (
        "backend `tensorrt-rtx` runs no graphs for segmentation\n\nhint: those that do: onnxruntime, mil"
    )
