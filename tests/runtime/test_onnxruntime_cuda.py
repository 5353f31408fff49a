"""ONNX Runtime's providers for GPUs where there is none: said in words, never a silent fall back to the CPU; copies."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from clip_edge.bundle import GOLDEN, Bundle
from clip_edge.errors import UnavailableError
from clip_edge.golden import read_golden
from clip_edge.runtime import load, transfers
from clip_edge.runtime.backends import BACKENDS, Options, onnxruntime_cuda, onnxruntime_tensorrt
from clip_edge.runtime.backends.onnxruntime import TENSORRT, run_on
from clip_edge.runtime.tensorrt.plan import read_graph

PROVIDERS = {"onnxruntime-cuda": onnxruntime_cuda.PROVIDER, "onnxruntime-tensorrt": TENSORRT}


@pytest.mark.parametrize(("name", "provider"), PROVIDERS.items())
def test_a_build_without_the_provider_is_refused(
    name: str, provider: str, tiny_trt_bundle: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    if provider in ort.get_available_providers():
        pytest.skip(f"this onnxruntime has {provider}")
    module = importlib.import_module(BACKENDS[name].module)
    assert not module.is_found()
    bundle = Bundle.open(tiny_bundle if name == "onnxruntime-cuda" else tiny_trt_bundle)
    artifact = bundle.manifest.artifact("image", BACKENDS[name].targets)
    with pytest.raises(UnavailableError, match=f"was built without {provider}") as problem:
        module.open_tower(bundle, artifact, Options(engines=tmp_path))
    assert problem.value.exit_code == 3


def test_bound_inputs_and_outputs_give_the_reference_and_tell_their_copies(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    artifact = bundle.manifest.artifact("text", ["onnx"])
    golden = read_golden((tiny_bundle / GOLDEN).read_bytes(), bundle.manifest, tiny_bundle)
    session = ort.InferenceSession(tiny_bundle / artifact.path, providers=["CPUExecutionProvider"])
    transfers.take()
    for part in (slice(None), slice(1), slice(None, None, 2)):  # the last is not contiguous
        found = run_on(session, artifact, golden.input_ids[part], "cpu", 0)
        assert isinstance(found, np.ndarray)
        assert np.abs(found - golden.text_embeds[part]).max() < 1e-5
    assert transfers.take() > 0


def test_copies_are_a_stage_of_their_own(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(tiny_bundle, threads=1, towers=["text"]) as model:
        run = model._run("text")

        def copying(array: np.ndarray) -> np.ndarray:
            transfers.add(1e-6)
            return run(array)

        transfers.add(5.0)  # of a call that failed
        monkeypatch.setitem(model._runs, "text", copying)
        model.encode_texts(["a", "b"], batch_size=1)
        assert model.timings["transfer"] == pytest.approx(2e-6)
        assert model.timings["encode"] > 0
        monkeypatch.setitem(model._runs, "text", run)
        model.encode_texts(["a"])
        assert "transfer" not in model.timings


def test_tensorrt_gets_the_shapes_of_the_plan_and_no_say_in_precision(tiny_trt_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_trt_bundle)
    graph = read_graph(bundle, bundle.manifest.artifact("text", ["trt-rtx"], "fp16"))
    name, settings = onnxruntime_tensorrt.provider(graph, tmp_path, Options(device=1))
    length = graph.row_shape[0]
    assert name == "TensorrtExecutionProvider"
    assert settings["device_id"] == 1
    assert settings["trt_profile_min_shapes"] == f"input_ids:1x{length}"
    assert settings["trt_profile_opt_shapes"] == f"input_ids:8x{length}"
    assert settings["trt_profile_max_shapes"] == f"input_ids:32x{length}"
    assert settings["trt_engine_cache_prefix"] == graph.sha256
    assert not {"trt_fp16_enable", "trt_int8_enable", "trt_bf16_enable"} & set(settings)  # those weaken the types
