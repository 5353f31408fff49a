"""Backends with engines: choosing one, its plug-in, building, finding again. The double in runtime/tests stands for a
GPU's engine; where the plug-in of TensorRT-RTX was built (docs/embed.md), the real builder makes the engines."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clip_edge.bundle import Bundle
from clip_edge.files import sha256_bytes
from clip_edge.runtime.tensorrt import cache
from clip_edge.runtime.tensorrt.build import build_bundle
from clip_edge.runtime.tensorrt.cuda import Device
from clip_edge.runtime.tensorrt.header import check_header
from clip_edge.runtime.tensorrt.library import Library as TensorRt
from clip_edge.runtime.tensorrt.plan import read_graph

from .conftest import Library, Model
from .test_model_parity import rewrite

GRAPHS = ["trt-rtx/vision_model_int8.onnx", "trt-rtx/text_model_int8.onnx"]
KEPT = "built before from the same graph, library, device and settings"


class Engine(ctypes.Structure):
    """clip_edge_engine"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("built", ctypes.c_int32),
        ("graph", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("capability", ctypes.c_char_p),
        ("file", ctypes.c_char_p),
        ("reason", ctypes.c_char_p),
        ("bytes", ctypes.c_uint64),
        ("build_ns", ctypes.c_uint64),
    ]


Show = ctypes.CFUNCTYPE(None, ctypes.POINTER(Engine), ctypes.c_void_p)


class BuildOptions(ctypes.Structure):
    """clip_edge_build_options"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("workspace_mib", ctypes.c_int32),
        ("capability", ctypes.c_char_p),
        ("show", Show),
        ("user", ctypes.c_void_p),
    ]


def build(model: Model, capability: str | None = None, *, workspace_mib: int = 0) -> list[tuple[str, str, str, Path]]:
    """Graph, capability, reason and file of each engine."""
    found = []

    def show(engine: ctypes._Pointer[Engine], _: int) -> None:
        one = engine.contents
        assert one.bytes == Path(one.file.decode()).stat().st_size
        assert one.precision == b"int8"
        assert one.struct_size == ctypes.sizeof(Engine)
        assert bool(one.built) == (one.reason.decode() != KEPT)
        found.append((one.graph.decode(), one.capability.decode(), one.reason.decode(), Path(one.file.decode())))

    options = BuildOptions(ctypes.sizeof(BuildOptions), workspace_mib, capability and capability.encode(), Show(show))
    model.library.check(model.library.c.clip_edge_model_build(model.handle, ctypes.byref(options)))
    return found


@pytest.fixture
def double(library_path: Path) -> Path:
    return library_path.parents[1] / "tests" / "libengine_double_1.so"


@pytest.fixture
def model(library: Library, tiny_trt_bundle: Path, double: Path, tmp_path: Path) -> Iterator[Model]:
    """The bundle's int8 towers for TensorRT, in the double, with an empty folder of engines."""
    opened = library.open(
        tiny_trt_bundle, precision="int8", backend="tensorrt", plugin=double, engines=tmp_path / "engines"
    )
    yield opened
    opened.close()


def refusal(library: Library, folder: Path, **options: str | Path) -> str:
    with pytest.raises(AssertionError) as caught:
        embed_black(library.open(folder, **options), Bundle.open(folder).manifest.embedding.dim)
    return str(caught.value).splitlines()[0]


def embed_black(model: Model, dim: int) -> np.ndarray:
    pixels = np.zeros((8, 8, 3), np.uint8)
    return model.images([model.library.image([pixels], 8, 8)], dim)


def test_backends_that_this_build_has(library: Library, tiny_bundle: Path) -> None:
    library.c.clip_edge_backends.restype = ctypes.c_char_p
    assert library.c.clip_edge_backends() == b"onnxruntime,tensorrt,tensorrt-rtx"
    known = "one of onnxruntime,tensorrt,tensorrt-rtx expected"
    assert (
        refusal(library, tiny_bundle, backend="cuda") == f"backend `cuda` is not in this build of the library: {known}"
    )
    assert (
        refusal(library, tiny_bundle, backend="coreml")
        == f"backend `coreml` is not in this build of the library, because Core ML is on Apple's systems only: {known}"
    )
    opened = library.open(tiny_bundle, backend="onnxruntime")
    with pytest.raises(AssertionError, match="`onnxruntime` runs the bundle's own files: there is no engine to build"):
        build(opened)
    opened.close()


@pytest.mark.slow
def test_a_plug_in_that_is_missing_or_of_another_age(library: Library, tiny_trt_bundle: Path, double: Path) -> None:
    def found(**options: str | Path) -> str:
        return refusal(library, tiny_trt_bundle, **({"backend": "tensorrt-rtx", "precision": "int8"} | options))

    assert "needs its plug-in libclip_edge_tensorrt_rtx.so" in found(plugin="/nowhere/plug-in.so")
    assert "build it with -DCLIP_EDGE_TENSORRT_RTX_INCLUDE=FOLDER of NvInfer.h" in found(plugin="/nowhere/plug-in.so")
    old = found(plugin=double.with_name("libengine_double_77.so"))
    assert old == "plug-in libclip_edge_tensorrt_rtx.so: ABI 1 expected; found 77"
    assert found(plugin=double.with_name("libold_onnxruntime.so")).endswith("not a plug-in of libclip_edge")
    assert found(plugin=double, libraries="nowhere") == "the double cannot be opened: nothing in nowhere"


@pytest.mark.slow
def test_engines_are_built_found_and_run(
    model: Model, library: Library, tiny_trt_bundle: Path, double: Path, tmp_path: Path
) -> None:
    pixels = np.full((40, 40, 3), 255, np.uint8)
    image = library.image([pixels], 40, 40)
    dim = Bundle.open(tiny_trt_bundle).manifest.embedding.dim
    with pytest.raises(AssertionError) as caught:
        model.images([image], dim)
    assert str(caught.value).splitlines()[0] == (
        'no engine of trt/vision_model_int8.onnx for Double "0" (sm89) and Double 9.8.7.6: not built yet; '
        "`clip-edge-cli build` makes it"
    )
    first = build(model)
    assert [(graph, capability, reason) for graph, capability, reason, _ in first] == [
        ("trt/vision_model_int8.onnx", "sm89", "not built yet"),
        ("trt/text_model_int8.onnx", "sm89", "not built yet"),
    ]
    assert (tmp_path / "engines").stat().st_mode & 0o077 == 0
    assert {reason for *_, reason, _ in build(model)} == {KEPT}

    found = model.images([image] * 11, dim)  # batches of 8 and 3
    manifest = Bundle.open(tiny_trt_bundle).manifest
    white = np.float32((1 - manifest.image.preprocess.mean[0]) / manifest.image.preprocess.std[0])
    np.testing.assert_allclose(found[:, 0], white, rtol=1e-6)
    assert found[:, 1].tolist() == [8] * 8 + [3] * 3
    assert model.texts(["a cat"], dim)[0, :2].tolist() == [manifest.text.tokenizer.bos_id, 1]

    first[0][3].write_bytes(b"double of trt/vision_model_int8.onnX")  # code that somebody else put there
    options = {"precision": "int8", "backend": "tensorrt", "engines": tmp_path / "engines"}
    other = library.open(tiny_trt_bundle, plugin=double, **options)
    with pytest.raises(AssertionError, match="the engine was changed: its hash differs"):
        other.images([image], dim)
    assert [reason for *_, reason, _ in build(other)] == ["the engine was changed: its hash differs", KEPT]
    assert [reason for *_, reason, _ in build(other, workspace_mib=64)] == ["another memory limit"] * 2
    (tmp_path / "engines").chmod(0o777)
    with pytest.raises(AssertionError, match="others may write into the folder of engines, which hold machine code"):
        build(other)
    (tmp_path / "engines").chmod(0o700)
    with pytest.raises(AssertionError, match=r"`workspace_mib` must lie in 16\.\.1048576, or be 0; found 3"):
        build(other, workspace_mib=3)
    with pytest.raises(AssertionError, match="the double builds for no compute capability `sm1`"):
        build(other, "sm1")
    other.close()


@pytest.mark.slow
def test_python_and_the_library_find_each_others_engines(model: Model, tiny_trt_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_trt_bundle)
    device = Device(0, 'Double "0"', "sm89", 0, 0)
    library = TensorRt("tensorrt", "Double", "9.8.7.6", None, None)
    for artifact in bundle.manifest.fitting("image", ("trt",)).values():
        graph = read_graph(bundle, artifact)
        key = cache.engine_key(graph, library, device.name, device.capability)
        assert cache.find(tmp_path / "engines", key) == "not built yet"
        if artifact.precision != "int8":
            continue
        *_, file = build(model)[0]
        found = cache.find(tmp_path / "engines", key)
        assert not isinstance(found, str), found
        assert found[0] == b"double of trt/vision_model_int8.onnx"
        assert file.name == f"{key.name}.engine"
        assert found[1].layers == graph.layers
        assert found[1].workspace_bytes == graph.workspace_bytes

        short = cache.engine_key(graph, TensorRt("tensorrt", "", "9.8.7", None, None), device.name, device.capability)
        file.unlink()
        file.with_suffix(".json").unlink()
        entry = cache.Entry(short, graph.path, found[1].engine_sha256, len(found[0]), graph.workspace_bytes, 1.0, {})
        cache.store(tmp_path / "engines", entry, found[0])
        assert embed_black(model, graph.dim)[0, 1] == 1  # found under the version that Debian packages name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 25}, "contradicts the manifest: `dim` of trt/vision_model_int8.onnx"),
        ({"input_dtype": "int32"}, "contradicts the manifest: `input_dtype`"),
        ({"sha256": "0" * 64}, "contradicts the manifest: `sha256`"),
        ({"profiles": [{"min": 4, "opt": 2, "max": 8}]}, "a profile whose batches are not in order"),
        ({"profiles": []}, "`row_shape` needs 1 to 3 sides and `profiles` 1 to 16 entries"),
        ({"path": "elsewhere.onnx"}, "does not hold trt/vision_model_int8.onnx"),
        ({"command": "rm"}, "unknown key: `command`"),
    ],
)
def test_a_plan_that_cannot_be(
    library: Library, tiny_trt_bundle: Path, double: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folder = Path(shutil.copytree(tiny_trt_bundle, tmp_path / "bundle"))
    plan = json.loads((folder / "trt" / "build.json").read_bytes())
    for graph in plan["graphs"]:
        if graph["path"] == "trt/vision_model_int8.onnx":
            graph.update(change)
    data = json.dumps(plan).encode()
    (folder / "trt" / "build.json").write_bytes(data)
    files = json.loads((folder / "manifest.json").read_bytes())["files"]
    rewrite(folder, files=files | {"trt/build.json": {"sha256": sha256_bytes(data), "bytes": len(data)}})
    model = library.open(folder, precision="int8", backend="tensorrt", plugin=double, engines=tmp_path / "engines")
    with pytest.raises(AssertionError, match=re.escape(message)):
        build(model)
    model.close()


@pytest.mark.slow
def test_tensorrt_rtx_builds_real_engines(
    library: Library, library_path: Path, tiny_trt_bundle: Path, tmp_path: Path
) -> None:
    plugin = library_path.with_name("libclip_edge_tensorrt_rtx.so")
    if not plugin.exists():
        pytest.skip("the plug-in is not built: TensorRT-RTX's headers come in no package (docs/embed.md)")
    libs = pytest.importorskip("tensorrt_rtx_libs")
    version = pytest.importorskip("tensorrt_rtx_bindings").__version__
    folder = Path(libs.__file__).parent
    options = {"backend": "tensorrt-rtx", "libraries": folder, "engines": tmp_path / "engines", "precision": "int8"}
    model = library.open(tiny_trt_bundle, **options)
    found = build(model, "sm86")
    assert [(graph, capability) for graph, capability, *_ in found] == [(graph, "sm86") for graph in GRAPHS]
    for *_, file in found:
        check_header(file.read_bytes(), version)
    kept = build_bundle(tiny_trt_bundle, "tensorrt-rtx", precision="int8", engines=tmp_path / "engines", named=["sm86"])
    assert [(result.built, result.reason) for result in kept] == [(False, KEPT)] * 2
    with pytest.raises(AssertionError, match="builds for no compute capability `sm90`"):
        build(model, "sm90")
    with pytest.raises(AssertionError, match=r"no NVIDIA driver here \(libcuda\.so\.1\)"):
        embed_black(model, Bundle.open(tiny_trt_bundle).manifest.embedding.dim)
    model.close()
