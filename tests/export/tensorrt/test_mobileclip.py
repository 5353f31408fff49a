"""A student of MobileCLIP-S1's shape: folded RepMixer blocks and a text tower of full width, ready for a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_edge.bundle import Bundle
from clip_edge.export.exporter import Request, export
from clip_edge.runtime.tensorrt.plan import parse_plan


@pytest.mark.slow
@pytest.mark.timeout(1800)  # graphs of full size, and an engine from each
def test_mobileclip_s1_becomes_engines(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    out = tmp_path / "bundle"
    requests = [Request("trt-rtx", "fp32"), Request("trt-rtx", "fp16")]
    export("student:mobileclip-s1:random", requests, out, capabilities=["sm89"])
    path = out / "trt-rtx" / "build.json"
    plan, files = parse_plan(path.read_bytes(), path), Bundle.open(out).manifest.files
    assert [set(graph.layers) for graph in plan.graphs] == [{"fp32"}, {"fp16"}] * 2
    assert all(sum(graph.layers.values()) > 40 for graph in plan.graphs)
    full, half, *_ = (files[engine.path].bytes for graph in plan.graphs for engine in graph.engines)
    assert half < 0.7 * full
