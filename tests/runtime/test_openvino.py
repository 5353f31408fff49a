"""OpenVINO beside the reference: any number of rows, in float32 and in bfloat16, and what it cannot load.

`scripts/test` gives this file a process of its own.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from clip_edge.benchmarks.report import read_report
from clip_edge.bundle import GOLDEN, TOWERS, Bundle, Tower
from clip_edge.cli import main
from clip_edge.errors import BundleError, UsageError
from clip_edge.golden import read_golden
from clip_edge.numerics import TOLERANCES
from clip_edge.preprocess import normalize
from clip_edge.runtime import load
from clip_edge.runtime.backends import Options, is_installed, open_tower
from clip_edge.runtime.verify import verify

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def quantised(tiny_student: Path, tiny_calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in four precisions."""
    from clip_edge.export.exporter import Request, export

    out = tmp_path_factory.mktemp("bundle") / "quantised"
    requests = [Request("onnx", precision) for precision in ("fp32", "fp16", "int8", "int4")]
    export(tiny_student, requests, out, calibration=tiny_calibration)
    return out


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("options", [Options(threads=1), Options(threads=2), Options()])
def test_it_gives_the_reference_from_any_thread(tower: Tower, options: Options, tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    golden = read_golden((tiny_bundle / GOLDEN).read_bytes(), bundle.manifest, tiny_bundle)
    run = open_tower("openvino", bundle, bundle.manifest.artifact(tower, ["onnx"]), options)
    inputs: np.ndarray = golden.input_ids.astype(np.int32)  # graphs want int64: callers need not know
    expected = golden.text_embeds
    if tower == "image":
        inputs, expected = normalize(golden.pixels, bundle.manifest.image.preprocess), golden.image_embeds
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: run(inputs), range(8)):
            assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 17])
def test_any_number_of_rows_is_the_same_as_one_by_one(tiny_bundle: Path, rows: int) -> None:
    bundle = Bundle.open(tiny_bundle)
    golden = read_golden((tiny_bundle / GOLDEN).read_bytes(), bundle.manifest, tiny_bundle)
    run = open_tower("openvino", bundle, bundle.manifest.artifact("text", ["onnx"]), Options(threads=1))
    ids = np.resize(golden.input_ids, (rows, golden.input_ids.shape[1]))
    found = run(ids)
    assert found.shape == (rows, bundle.manifest.embedding.dim)
    assert found.dtype == np.float32
    for row, alone in zip(found, ids, strict=True):
        assert np.abs(run(alone[None])[0] - row).max() < 1e-6


def test_every_precision_but_int4_holds_its_tolerance(quantised: Path) -> None:
    found = verify(quantised, "openvino")
    assert [check.precision for check in found.towers if check.tower == "text"] == ["fp32", "fp16", "int8"]
    assert found.problems == []


@pytest.mark.skipif(not is_installed("openvino-bf16"), reason="this processor does not multiply bfloat16")
def test_bfloat16_is_another_arithmetic_and_is_judged(quantised: Path) -> None:
    exact = {check.path: check for check in verify(quantised, "openvino").towers}
    found = verify(quantised, "openvino-bf16").towers
    assert [check.precision for check in found if check.tower == "text"] == ["fp32", "fp16", "int8"]
    for check in found:
        assert check.tolerance == TOLERANCES["int8" if check.precision == "int8" else "fp16"].min_cosine
        assert check.passed == (check.min_cosine >= check.tolerance)
        if check.precision != "int8":
            assert check.max_abs > 2 * exact[check.path].max_abs


def test_what_it_cannot_load_is_said_in_words(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(tiny_bundle)
    artifact = bundle.manifest.artifact("text", ["onnx"])
    monkeypatch.setattr(Bundle, "read", lambda *_: b"no graph")
    with pytest.raises(BundleError) as problem:
        open_tower("openvino", bundle, artifact, Options())
    assert problem.value.what.startswith("openvino 20")
    assert f" cannot load {artifact.path}: " in problem.value.what
    assert problem.value.exit_code == 1


def test_a_graph_that_changes_after_loading_is_never_compiled(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    with load(copy, "openvino", threads=1, towers=["text"]) as model:
        before = model.encode_texts(["a cat"])
        file = copy / model.manifest.artifact("text", ["onnx"]).path
        file.write_bytes(file.read_bytes() + b"\0")
        assert (model.encode_texts(["a cat"]) == before).all()
        with pytest.raises(BundleError, match="was changed"):
            model.encode_texts(["a cat"] * 8)  # takes the program for eight rows


def test_a_precision_that_it_does_not_run_is_refused(quantised: Path) -> None:
    with pytest.raises(UsageError, match="backend `openvino` does not run int4") as problem:
        load(quantised, "openvino", precision="int4")
    assert problem.value.hint == "`onnxruntime` runs every precision"


def test_bench_measures_how_near_it_comes_here(tiny_bundle: Path, tmp_path: Path) -> None:
    words = ["bench", str(tiny_bundle), "--backend", "onnxruntime,openvino", "--budget", "0.3", "-q"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    report = read_report(tmp_path / "out")
    rows = {(row.backend, row.tower): row.accuracy for row in report.results}
    assert set(rows) == {(name, tower) for name in ("onnxruntime", "openvino") for tower in ("image", "text")}
    here = {check.tower: check for check in verify(tiny_bundle, "openvino", threads=1).towers}
    for (name, tower), accuracy in rows.items():
        assert accuracy is not None
        assert accuracy.passed
        if name == "openvino":
            assert accuracy.min_cosine == pytest.approx(here[tower].min_cosine, abs=1e-7)
