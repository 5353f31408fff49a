"""`backend="native"`: Python through libclip_edge gives what Python gives, in every thread; what is missing is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_edge import runtime
from clip_edge.cli import main
from clip_edge.errors import BundleError, UsageError
from clip_edge.runtime.backends import BACKENDS, find_backend
from clip_edge.runtime.verify import verify


@pytest.fixture(autouse=True)
def use_library(library_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIP_EDGE_LIBRARY", str(library_path))


def test_embeddings_equal_those_of_onnxruntime(tiny_bundle: Path) -> None:
    source = np.random.default_rng(8)
    pictures = [source.integers(0, 256, (*source.integers(20, 200, 2).tolist(), 3), dtype=np.uint8) for _ in range(40)]
    transparent = Image.fromarray(source.integers(0, 256, (60, 80, 4), dtype=np.uint8), "RGBA")
    texts = ["a red apple", "", "一只猫 🦊", "x" * 3000, "a\0b", "\ud800", "&amp; Café"]
    ours, reference = (
        runtime.load(tiny_bundle, threads=1),
        runtime.load(tiny_bundle, "native", threads=1),
    )
    for found, expected in (
        (ours.encode_images([*pictures, transparent]), reference.encode_images([*pictures, transparent])),
        (ours.encode_texts(texts), reference.encode_texts(texts)),
        (ours.classify(pictures[:2], ["cat", "дом"]), reference.classify(pictures[:2], ["cat", "дом"])),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert reference.timings["encode"] > 0


def test_verify_passes_and_sees_what_the_library_gives(tiny_bundle: Path) -> None:
    proof = verify(tiny_bundle, "native", threads=1)
    assert (proof.passed, proof.preprocess_max_grey, proof.token_rows_different) == (True, 0, 0)
    assert all(check.min_cosine >= 0.9999 for check in proof.towers)


def test_threads_share_a_model(tiny_bundle: Path) -> None:
    model, wrong = runtime.load(tiny_bundle, "native", threads=1), []
    picture = np.random.default_rng(1).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    expected = model.encode_images([picture]), model.encode_texts(["a dog"])

    def work() -> None:
        for _ in range(20):
            found = model.encode_images([picture]), model.encode_texts(["a dog"])
            wrong.extend(not np.array_equal(a, b) for a, b in zip(found, expected, strict=True))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 8 * 20 * 2
    assert not any(wrong)


def test_damage_is_told_when_loading(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    graph = copy / "onnx" / "vision_model.onnx"
    data = bytearray(graph.read_bytes())
    data[100] ^= 1
    graph.write_bytes(data)
    with pytest.raises(BundleError, match=r"libclip_edge: .*vision_model\.onnx: changed: its size or hash"):
        runtime.load(copy, "native")
    with pytest.raises(UsageError, match="int3"):
        runtime.load(tiny_bundle, "native", precision="int3")


@pytest.mark.parametrize(
    "words", [["run", "--image", "P", "--text", "a cat"], ["verify"], ["bench", "--budget", "0.2"]]
)
def test_every_verb_takes_it(
    words: list[str], tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "p.png")
    rest = [str(tmp_path / "p.png") if word == "P" else word for word in words[1:]]
    assert main([words[0], str(tiny_bundle), *rest, "--backend", "native", "--threads", "1", "--json", "-"]) == 0
    assert "native" in json.dumps(json.loads(capsys.readouterr().out))


def test_a_missing_library_is_told(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "clip_edge.cli", "verify", str(tiny_bundle), "--backend", "native", "--json", "-"]
    environment = os.environ | {"CLIP_EDGE_LIBRARY": "/nowhere/libclip_edge.so"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert error["what"] == "backend `native` needs the package `libclip_edge`, which is not installed"
    assert error["hint"] == BACKENDS["native"].install
    assert find_backend("native").targets == ("onnx",)
