"""`clip-edge build`: engines are made once, kept, and made again when anything changes. The real builder, no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from clip_edge.errors import BundleError, ConfigError, UnavailableError, UsageError
from clip_edge.runtime.tensorrt import cuda
from clip_edge.runtime.tensorrt.build import Result, build_bundle
from clip_edge.runtime.tensorrt.cuda import open_cuda


def build(bundle: Path, engines: Path, *, workspace_bytes: int | None = None) -> list[Result]:
    pytest.importorskip("tensorrt_rtx_bindings")
    return build_bundle(
        bundle,
        "tensorrt-rtx",
        precision="int8",
        engines=engines,
        named=["sm86"],
        workspace_bytes=workspace_bytes,
    )


def reasons(results: Sequence[Result]) -> list[tuple[bool, str]]:
    return [(result.built, result.reason) for result in results]


KEPT = (False, "built before from the same graph, library, device and settings")


def test_engines_are_built_once_and_again_when_something_changed(tiny_trt_bundle: Path, tmp_path: Path) -> None:
    engines = tmp_path / "engines"
    first = build(tiny_trt_bundle, engines)
    assert reasons(first) == [(True, "not built yet")] * 2
    assert [result.graph for result in first] == ["trt-rtx/vision_model_int8.onnx", "trt-rtx/text_model_int8.onnx"]
    assert all(result.layers["int8"] >= 2 and result.judgement is None for result in first)
    assert engines.stat().st_mode & 0o077 == 0
    assert {path.name for path in engines.glob("*.engine")} == {Path(result.engine).name for result in first}

    assert reasons(build(tiny_trt_bundle, engines)) == [KEPT, KEPT]
    Path(first[0].engine).write_bytes(b"vtrt")
    assert reasons(build(tiny_trt_bundle, engines)) == [(True, "the engine was changed: its hash differs"), KEPT]
    changed = build(tiny_trt_bundle, engines, workspace_bytes=64 * 1024**2)
    assert reasons(changed) == [(True, "another memory limit")] * 2
    assert reasons(build(tiny_trt_bundle, engines, workspace_bytes=64 * 1024**2)) == [KEPT, KEPT]


def test_what_cannot_be_is_refused_before_anything_is_built(tiny_trt_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the workspace must be at least 16\.8 MB; found 1 bytes"):
        build_bundle(tiny_trt_bundle, "tensorrt-rtx", workspace_bytes=1)
    with pytest.raises(UsageError, match="unknown compute capability: `sm90`"):
        build_bundle(tiny_trt_bundle, "tensorrt-rtx", named=["sm90"], engines=tmp_path)
    with pytest.raises(ConfigError, match="unknown precision: `int4`"):
        build_bundle(tiny_trt_bundle, "tensorrt-rtx", precision="int4", named=["sm89"], engines=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_without_graphs_for_it_says_how_to_get_them(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    with pytest.raises(BundleError) as caught:
        build_bundle(tiny_bundle, "tensorrt-rtx", named=["sm89"], engines=tmp_path)
    assert caught.value.hint == "export it again with --target trt-rtx"


def test_without_a_gpu_names_are_asked_for(
    tiny_trt_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "libcuda-that-is-not-there.so.1")
    open_cuda.cache_clear()
    with pytest.raises(UnavailableError) as caught:
        build_bundle(tiny_trt_bundle, "tensorrt-rtx", engines=tmp_path)
    assert caught.value.what.startswith("no NVIDIA driver here: ")
    assert caught.value.hint == "name the GPUs to build for, such as --compute-capability sm89"
