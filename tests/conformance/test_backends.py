"""The contract of every row of the table of backends, on a real bundle."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from clip_edge.bundle import GOLDEN, TOWERS, Bundle, Tower
from clip_edge.golden import read_golden
from clip_edge.numerics import TOLERANCES
from clip_edge.preprocess import normalize
from clip_edge.runtime.backends import BACKENDS, Options, is_installed, open_tower

# The others read what takes long to export; their tests stand beside those of their targets.
ALONE = ("openvino", "openvino-bf16")  # tests/runtime/test_openvino.py holds them to the same, in a process of its own
READ_ONNX = [
    name
    for name, backend in BACKENDS.items()
    if backend.targets[0] == "onnx" and name not in ALONE and is_installed(name)
]


@pytest.mark.parametrize("name", BACKENDS)
def test_a_row_is_complete(name: str) -> None:
    backend = BACKENDS[name]
    assert backend.module == f"clip_edge.runtime.backends.{name.replace('-', '_')}"
    assert backend.summary
    assert {*backend.refuses, backend.judged_as or "fp32"} <= set(TOLERANCES)
    assert backend.install.startswith(("scripts/native", "pip install "))


@pytest.mark.parametrize("name", READ_ONNX)
@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("options", [Options(threads=1), Options(threads=2, spin=True), Options()])
def test_a_backend_gives_the_reference(name: str, tower: Tower, options: Options, tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    golden = read_golden((tiny_bundle / GOLDEN).read_bytes(), bundle.manifest, tiny_bundle)
    run = open_tower(name, bundle, bundle.manifest.artifact(tower, BACKENDS[name].targets), options)
    if tower == "image":
        inputs: np.ndarray = normalize(golden.pixels, bundle.manifest.image.preprocess)
        expected = golden.image_embeds
    else:
        inputs, expected = golden.input_ids, golden.text_embeds
    found = run(inputs)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(run(inputs[:1]) - expected[:1]).max() < 1e-5
    _run_from_threads(run, inputs, found)


@pytest.mark.parametrize("name", READ_ONNX)
def test_ids_of_any_integer_type_are_taken(name: str, tiny_bundle: Path) -> None:
    """Graphs want int64 or int32, by target; callers need not know which."""
    bundle = Bundle.open(tiny_bundle)
    golden = read_golden((tiny_bundle / GOLDEN).read_bytes(), bundle.manifest, tiny_bundle)
    run = open_tower(name, bundle, bundle.manifest.artifact("text", BACKENDS[name].targets), Options(threads=1))
    for dtype in (np.int32, np.int64, np.uint16):
        assert np.abs(run(golden.input_ids.astype(dtype)) - golden.text_embeds).max() < 1e-5


def _run_from_threads(run: object, inputs: np.ndarray, expected: np.ndarray) -> None:
    errors: list[float] = []

    def work() -> None:
        errors.append(float(np.abs(run(inputs) - expected).max()))  # type: ignore[operator]

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 4
    assert max(errors) < 1e-6
