"""A student of MobileCLIP-S1's widths, shallow: folded RepMixer blocks, attention, a text tower, ready for a GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest
import torch

from clip_edge.bundle import Bundle
from clip_edge.distill.models.checkpoint import save_student
from clip_edge.distill.models.spec import TokenizerSpec, load_spec
from clip_edge.distill.models.student import build_student
from clip_edge.distill.models.tokenizers import train_tokenizer
from clip_edge.export.exporter import Request, export
from clip_edge.runtime.tensorrt.plan import parse_plan


@pytest.fixture(name="student")
def _student(tmp_path: Path) -> Path:
    """MobileCLIP-S1 with one block in each stage and two in the text tower; every kind of block has its full width."""
    tokenizer = train_tokenizer(["a red apple", "a blue car and a dog"] * 5, 300, 77)
    whole = load_spec("mobileclip-s1")
    spec = dataclasses.replace(
        whole,
        image=dataclasses.replace(whole.image, size=64, args={"layers": [1, 1, 1, 1]}),
        text=dataclasses.replace(whole.text, depth=2),
        tokenizer=TokenizerSpec("trained", tokenizer.spec.vocab_size),
        parameters=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = build_student(spec, tokenizer)
    folder = tmp_path / "student"
    folder.mkdir()
    save_student(folder, student, tokenizer, recipe_toml="", metrics=None, provenance={})
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)  # an engine from each of four graphs
def test_mobileclip_s1_becomes_engines(student: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    out = tmp_path / "bundle"
    requests = [Request("trt-rtx", "fp32"), Request("trt-rtx", "fp16")]
    export(student, requests, out, capabilities=["sm89"])
    path = out / "trt-rtx" / "build.json"
    plan, files = parse_plan(path.read_bytes(), path), Bundle.open(out).manifest.files
    assert [set(graph.layers) for graph in plan.graphs] == [{"fp32"}, {"fp16"}] * 2
    for graph in plan.graphs:
        operations = [node.op_type for node in onnx.load(out / graph.path).graph.node]
        assert sum(graph.layers.values()) == sum(operations.count(name) for name in ("Conv", "MatMul", "Gemm")) > 12
    full, half, *_ = (files[engine.path].bytes for graph in plan.graphs for engine in graph.engines)
    assert half < 0.7 * full
