"""What happens where there is no GPU, and which engine is taken where there is one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from clip_edge.bundle import Bundle
from clip_edge.errors import BundleError, UnavailableError
from clip_edge.runtime import load
from clip_edge.runtime.backends import Options, open_tower
from clip_edge.runtime.tensorrt import cuda
from clip_edge.runtime.tensorrt.cuda import Device, open_cuda
from clip_edge.runtime.tensorrt.library import Library, numbers, open_library
from clip_edge.runtime.tensorrt.plan import parse_plan, read_graph
from clip_edge.runtime.tensorrt.tower import find_engine

GPU = Device(0, "NVIDIA GeForce RTX 4060", "sm89", 8 * 1024**3, 7 * 1024**3)
OTHER = Device(0, "NVIDIA GeForce RTX 5090", "sm120", 32 * 1024**3, 30 * 1024**3)


@pytest.fixture(scope="module")
def library() -> Library:
    pytest.importorskip("tensorrt_rtx_bindings")
    return open_library("tensorrt-rtx")


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a driver, wherever the test runs."""
    monkeypatch.setattr(cuda, "LIBRARY", "libcuda-that-is-not-there.so.1")
    open_cuda.cache_clear()


def test_engines_in_the_bundle_are_taken_for_their_gpu(library: Library, tiny_trt_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_trt_bundle)
    for precision in ("fp32", "fp16", "int8"):
        graph = read_graph(bundle, bundle.manifest.artifact("image", ["trt-rtx"], precision))
        assert [engine.capability for engine in graph.engines] == ["sm89"]
        engine = find_engine(library, bundle, graph, GPU, tmp_path)
        assert engine == (tiny_trt_bundle / graph.engines[0].path).read_bytes()
        with pytest.raises(UnavailableError) as caught:
            find_engine(library, bundle, graph, OTHER, tmp_path)
        assert caught.value.what == (
            f"no engine of {graph.path} for NVIDIA GeForce RTX 5090 (sm120) and TensorRT-RTX {library.version}: "
            "not built yet"
        )
        assert caught.value.hint == f"`clip-edge build {tiny_trt_bundle} --backend tensorrt-rtx` makes it"


def test_a_changed_engine_is_never_loaded(library: Library, tiny_trt_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_trt_bundle, copy)
    bundle = Bundle.open(copy)
    graph = read_graph(bundle, bundle.manifest.artifact("text", ["trt-rtx"], "fp16"))
    file = copy / graph.engines[0].path
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match="was changed: SHA-256"):
        find_engine(library, bundle, graph, GPU, tmp_path)


@pytest.mark.usefixtures("no_driver")
def test_without_a_gpu_exit_3_says_so(library: Library, tiny_trt_bundle: Path) -> None:
    bundle = Bundle.open(tiny_trt_bundle)
    with pytest.raises(UnavailableError) as caught:
        open_tower("tensorrt-rtx", bundle, bundle.manifest.artifact("image", ["trt-rtx"]), Options())
    assert caught.value.exit_code == 3
    assert caught.value.what.startswith("no NVIDIA driver here: ")
    assert caught.value.hint == cuda.NEEDS_GPU


def test_the_same_graph_runs_without_a_gpu_in_onnx_runtime(tiny_trt_bundle: Path) -> None:
    for precision in ("fp32", "fp16", "int8"):
        with load(tiny_trt_bundle, precision=precision, threads=1) as model:
            assert model.encode_texts(["a red apple"]).shape == (1, 24)  # int64 ids are narrowed for the int32 input


def test_versions_compare_as_numbers() -> None:
    assert numbers("10.13.0") > numbers("10.3") > numbers("10.2.0.19")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "1" * 64}, "contradicts the manifest: `sha256`"),
        ({"dim": 25}, "contradicts the manifest: `dim`"),
        ({"row_shape": [3, 64, 64]}, "contradicts the manifest: `row_shape`"),
        ({"path": "trt/other.onnx"}, "does not hold trt/vision_model.onnx"),
    ],
)
def test_a_plan_that_contradicts_the_manifest_is_refused(
    tiny_trt_bundle: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    from dataclasses import replace

    from clip_edge.bundle import MANIFEST, list_files
    from clip_edge.files import write_file, write_json

    copy = tmp_path / "copy"
    shutil.copytree(tiny_trt_bundle, copy)
    plan = json.loads((copy / "trt" / "build.json").read_text())
    plan["graphs"][0] |= change
    write_json(copy / "trt" / "build.json", plan)
    manifest = replace(Bundle.open(tiny_trt_bundle).manifest, files=list_files(copy))
    write_file(copy / MANIFEST, manifest.to_bytes())
    bundle = Bundle.open(copy)
    with pytest.raises(BundleError, match=message):
        read_graph(bundle, bundle.manifest.artifact("image", ["trt"], "fp32"))


@pytest.mark.parametrize("change", [{"schema": 2}, {"graphs": 3}, {"surprise": 1}, {"target": "onnx"}])
def test_a_plan_of_another_kind_is_refused(tiny_trt_bundle: Path, change: dict[str, object]) -> None:
    plan = json.loads((tiny_trt_bundle / "trt" / "build.json").read_text()) | change
    with pytest.raises(BundleError):
        parse_plan(json.dumps(plan).encode(), Path("build.json"))
