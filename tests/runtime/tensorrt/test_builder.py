"""Every graph that is exported parses and builds with the real library, in the precision that was asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clip_edge.bundle import TOWERS, Bundle, Tower
from clip_edge.errors import BundleError, ExportError, UsageError
from clip_edge.runtime.tensorrt.builder import Network, build_engine, capabilities, check_contract, parse
from clip_edge.runtime.tensorrt.header import check_header
from clip_edge.runtime.tensorrt.library import Library, open_library
from clip_edge.runtime.tensorrt.plan import Graph, read_graph


@pytest.fixture(scope="module")
def library() -> Library:
    pytest.importorskip("tensorrt_rtx_bindings")
    return open_library("tensorrt-rtx")


def load(library: Library, folder: Path, tower: Tower, precision: str) -> tuple[Graph, Network]:
    bundle = Bundle.open(folder)
    graph = read_graph(bundle, bundle.manifest.artifact(tower, ["trt"], precision))
    return graph, parse(library, (folder / graph.path).read_bytes(), graph.path)


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_precision_is_in_the_network(library: Library, tiny_trt_bundle: Path, tower: Tower, precision: str) -> None:
    graph, network = load(library, tiny_trt_bundle, tower, precision)
    check_contract(network, graph)
    assert network.counts == graph.layers
    if precision == "int8":
        assert set(network.counts) == {"fp16", "int8"}
        assert network.counts["int8"] >= 2
    else:
        assert set(network.counts) == {precision}


@pytest.mark.parametrize("capability", ["sm75", "sm80", "sm86", "sm120", "sm121"])  # sm89 is in the bundle
def test_int8_builds_for_every_gpu_that_is_offered(library: Library, tiny_trt_bundle: Path, capability: str) -> None:
    graph, network = load(library, tiny_trt_bundle, "text", "int8")
    built = build_engine(network, graph, capability=capability)
    check_header(built.engine, library.version)
    assert built.timing is None


def test_turing_has_no_fp32_products(library: Library, tiny_trt_bundle: Path) -> None:
    graph, network = load(library, tiny_trt_bundle, "text", "fp32")
    with pytest.raises(ExportError) as caught:
        build_engine(network, graph, capability="sm75")
    assert "FP32 GEMM is not supported" in caught.value.what
    assert caught.value.hint == (
        "Turing (sm75) has no fp32 matrix products in TensorRT-RTX: export fp16 for it, or leave sm75 out"
    )


def test_capabilities_are_named(library: Library, tiny_trt_bundle: Path) -> None:
    assert capabilities(library) == ["sm75", "sm80", "sm86", "sm89", "sm120", "sm121"]
    graph, network = load(library, tiny_trt_bundle, "text", "fp16")
    with pytest.raises(UsageError) as caught:
        build_engine(network, graph, capability="sm87")
    assert caught.value.what == "unknown compute capability: `sm87`"
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("did you mean `sm8")


def test_a_graph_that_breaks_its_promise_is_refused(library: Library, tiny_trt_bundle: Path) -> None:
    graph, network = load(library, tiny_trt_bundle, "text", "fp16")
    for wrong in (
        replace(graph, input="ids"),
        replace(graph, dim=25),
        replace(graph, row_shape=(17,)),
        replace(graph, input_dtype="float32"),
    ):
        with pytest.raises(BundleError, match="must have the inputs and outputs"):
            check_contract(network, wrong)


@pytest.mark.parametrize("data", [b"", b"not a graph", b"\x08\x09"])
def test_what_is_no_graph_is_an_error(library: Library, data: bytes) -> None:
    with pytest.raises(ExportError, match=r"TensorRT-RTX .* cannot parse broken\.onnx"):
        parse(library, data, "broken.onnx")


def test_an_engine_file_is_recognised(library: Library, tiny_trt_bundle: Path) -> None:
    engine = (tiny_trt_bundle / "trt-rtx" / "text_model.sm89.engine").read_bytes()
    check_header(engine, library.version)
    for data, message in (
        (b"", "no engine of TensorRT-RTX"),
        (b"x" + engine[1:], "no engine of TensorRT-RTX"),
        (engine[:-1], "the engine was cut"),
    ):
        with pytest.raises(BundleError, match=message):
            check_header(data, library.version)
    with pytest.raises(BundleError, match=r"an engine of TensorRT-RTX 9\.9\.9\.9 expected; found "):
        check_header(engine, "9.9.9.9")
