"""clip-edge-cli as people and scripts use it: results against Python, exit codes, messages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_edge import runtime
from clip_edge.runtime.verify import verify

from .conftest import onnxruntime_library

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def run(cli_path: Path) -> Run:
    def call(*words: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
        chosen = {**os.environ, "ONNXRUNTIME_LIBRARY": onnxruntime_library(), **(env or {})}
        arguments = [word if isinstance(word, bytes) else str(word) for word in (cli_path, *words)]
        return subprocess.run(arguments, capture_output=True, env=chosen, check=False)

    return call


def data(done: subprocess.CompletedProcess[bytes], code: int = 0) -> Any:
    assert done.returncode == code, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture
def picture(tmp_path: Path) -> np.ndarray:
    pixels = np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    (tmp_path / "a.ppm").write_bytes(b"P6 # made here\n70 50\n255\n" + pixels.tobytes())
    alpha = np.dstack([pixels, np.full((50, 70), 255, np.uint8)])
    header = b"P7\nWIDTH 70\nHEIGHT 50\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n"
    (tmp_path / "a.pam").write_bytes(header + alpha.tobytes())
    return pixels


def test_vectors_are_those_of_python(run: Run, tiny_bundle: Path, tmp_path: Path, picture: np.ndarray) -> None:
    python, texts = runtime.load(tiny_bundle, threads=1), ["a red apple", "一只猫"]
    expected = np.concatenate([python.encode_images([picture, picture]), python.encode_texts(texts)])
    words = ("embed", tiny_bundle, "--image", tmp_path / "a.ppm", tmp_path / "a.pam", "--text", *texts)
    found = data(run(*words, "--json", "-"))
    assert found["embedding_space"] == python.manifest.embedding.space
    assert [row["kind"] for row in found["embeddings"]] == ["image", "image", "text", "text"]
    np.testing.assert_allclose([row["values"] for row in found["embeddings"]], expected, atol=1e-4)
    lines = run(*words).stdout.decode().splitlines()
    np.testing.assert_allclose([[float(word) for word in line.split()] for line in lines], expected, atol=1e-4)


def test_classification_is_that_of_python(run: Run, tiny_bundle: Path, tmp_path: Path, picture: np.ndarray) -> None:
    labels = ["cat", "дом", "a b"]
    expected = runtime.load(tiny_bundle, threads=1).classify([picture], labels, ["{}!", "a {}"])[0]
    words = ("classify", tiny_bundle, "--image", tmp_path / "a.ppm", "--label", *labels, "--template", "{}!", "a {}")
    (row,) = data(run(*words, "--json", "-"))["images"]
    assert {item["label"]: item["probability"] for item in row["labels"]} == pytest.approx(
        dict(zip(labels, expected.tolist(), strict=True)), abs=1e-4
    )
    shares = [item["probability"] for item in row["labels"]]
    assert shares == sorted(shares, reverse=True)
    assert run(*words).stdout.decode().splitlines()[0].endswith(row["labels"][0]["label"])


def test_info_and_verify_say_what_python_says(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = runtime.load(tiny_bundle, threads=1).manifest
    info = data(run("info", tiny_bundle, "--json", "-"))
    assert (info["name"], info["dim"], info["precisions"]) == (manifest.name, manifest.embedding.dim, ["fp32"])
    out = tmp_path / "proof.json"
    done = run("verify", tiny_bundle, "--json", out)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[-1] == "passed"
    found, expected = json.loads(out.read_bytes()), verify(tiny_bundle, threads=1)
    assert found["passed"] is expected.passed is True
    assert found["files"] == expected.files
    assert [row["tower"] for row in found["towers"]] == ["image", "text"]
    assert all(row["min_cosine"] >= 0.9999 for row in found["towers"])


def test_bench_measures_both_towers(run: Run, tiny_bundle: Path) -> None:
    found = data(run("bench", tiny_bundle, "--budget", "0.2", "--threads", "1", "--json", "-"))
    assert [row["tower"] for row in found["results"]] == ["image", "text"]
    for row in found["results"]:
        latency, stages = row["latency_s"], row["stages_s"]
        assert 0 < latency["min"] <= latency["p50"] <= latency["max"]
        assert (latency["p90"] is None) == (row["samples"] < 10)
        assert (latency["p99"] is None) == (row["samples"] < 100)
        assert stages["prepare"] + stages["encode"] <= 1.5 * latency["p50"]
    assert found["memory_rss_bytes"] > 1e6
    assert run("bench", tiny_bundle, "--budget", "0.1").stdout.decode().startswith("tower   samples")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nonsense"], 2, "error: unknown verb: `nonsense`\n\nhint: see `clip-edge-cli --help`\n"),
        (["info"], 2, "error: a BUNDLE is missing: a folder made by `clip-edge export`\n"),
        (["info", "BUNDLE", "x"], 2, "error: one BUNDLE expected; found another: `x`\n"),
        (["info", "BUNDLE", "--image", "x"], 2, "error: unknown option: `--image`\n"),
        (["verify", "BUNDLE", "--precision"], 2, "error: --precision needs a value\n"),
        (["verify", "BUNDLE", "--precision", "int3"], 2, "error: the bundle has no precision `int3`\n  in: BUNDLE\n"),
        (["bench", "BUNDLE", "--threads", "1.5"], 2, "error: --threads must be whole; found `1.5`\n"),
        (["bench", "BUNDLE", "--budget", "nan"], 2, "error: --budget must be a number from 0.1 to 3600; found `nan`\n"),
        (["embed", "BUNDLE"], 2, "error: nothing to embed: --image or --text is missing\n"),
        (["classify", "BUNDLE", "--image", "x"], 2, "error: --label is missing\n"),
        (["embed", "BUNDLE", "--image", "/no.ppm"], 2, "error: cannot read the picture: No such file or directory\n"),
        (["info", "/nowhere"], 1, "error: /nowhere/manifest.json: No such file or directory\n  in: /nowhere\n"),
        (["verify", "BUNDLE", "--onnxruntime", "/no"], 3, "error: ONNX Runtime cannot be opened: /no: "),
        (["info", "BUNDLE", "--json", "/nowhere/x"], 3, "error: cannot write: No such file or directory\n"),
    ],
)
def test_mistakes_are_told(run: Run, tiny_bundle: Path, words: list[str], code: int, message: str) -> None:
    done = run(*[str(tiny_bundle) if word == "BUNDLE" else word for word in words])
    assert (done.returncode, done.stdout) == (code, b"")
    assert done.stderr.decode().startswith(message.replace("BUNDLE\n", f"{tiny_bundle}\n"))
    assert "\nhint: " in done.stderr.decode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a JPEG, PNG, binary PPM or PAM file"),
        (b"GIF89a", "not a JPEG, PNG, binary PPM or PAM file"),
        (b"P6 4", "the header is cut off"),
        (b"P6 4 x 255\n", "the header holds no number where one must be"),
        (b"P6 0 4 255\n", "1 to 100000000 pixels expected; found 0 x 4"),
        (b"P6 60000 60000 255\n", "1 to 100000000 pixels expected; found 60000 x 60000"),
        (b"P6 9999999999 1 255\n", "the header holds no number where one must be"),
        (b"P6 1 1 65535\n123456", "8 bits a channel expected; found MAXVAL 65535"),
        (b"P6 2 2 255\nshort", "12 bytes of pixels expected; found 5"),
        (b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 2\nMAXVAL 255\nENDHDR\n12", "1, 3 or 4 channels expected; found 2"),
        (b"P7\nWIDTH 1\n" * 101, "a PAM header without ENDHDR"),
    ],
)
def test_hostile_pictures_are_told(run: Run, tiny_bundle: Path, tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.ppm"
    path.write_bytes(content)
    error = data(run("embed", tiny_bundle, "--image", path, "--json", "-"), code=2)["error"]
    assert (error["type"], error["what"], error["where"]) == ("DataError", message, str(path))


def test_a_changed_bundle_fails(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    graph = copy / "onnx" / "text_model.onnx"
    whole = graph.read_bytes()
    for content, message in (
        (whole + b"\0", f"text_model.onnx: changed: {len(whole)} bytes expected, {len(whole) + 1} found"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "text_model.onnx: changed: its size or hash is not what the manifest"),
    ):
        graph.write_bytes(content)
        error = data(run("verify", copy, "--json", "-"), code=1)["error"]
        assert error["type"] == "BundleError"
        assert message in error["what"]


def test_any_bytes_become_valid_json(run: Run, tiny_bundle: Path) -> None:
    strange = b'\xff\xc3 "quoted" \\ \x01 \xed\xa0\x80 \xe4\xb8\x80'
    (row,) = data(run("embed", tiny_bundle, "--text", strange, "--json", "-"))["embeddings"]
    assert row["input"] == '\ufffd\ufffd "quoted" \\ \x01 \ufffd\ufffd\ufffd 一'


def test_help_names_what_works(run: Run) -> None:
    overview = run("--help").stdout.decode()
    for verb in ("info", "verify", "embed", "classify", "bench"):
        assert f"\n  {verb} " in overview
        assert run(verb, "--help").stdout.decode().startswith(f"usage: clip-edge-cli {verb} ")
    assert "JPEG, PNG, binary PPM (P6) or PAM (P7) files" in run("embed", "--help").stdout.decode()
    assert run("--version").stdout.startswith(b"clip-edge-cli ")


@pytest.mark.slow
def test_engines_are_built_and_proved(run: Run, cli_path: Path, tiny_trt_bundle: Path, tmp_path: Path) -> None:
    double = cli_path.parents[1] / "tests" / "libengine_double_1.so"  # its embeddings are wrong on purpose
    words = ("build", tiny_trt_bundle, "--backend", "tensorrt", "--precision", "int8", "--plugin", double)
    words = (*words, "--engines", tmp_path / "engines", "--json", "-")
    done = run(*words)
    found = data(done, 1)
    assert [row["graph"] for row in found["engines"]] == ["trt/vision_model_int8.onnx", "trt/text_model_int8.onnx"]
    assert [row["built"] for row in found["engines"]] == [True, True]
    assert found["verification"]["backend"] == "tensorrt"
    assert not found["verification"]["passed"]
    assert "at least 0.99 expected" in done.stderr.decode()
    assert "this is a double" in done.stderr.decode()

    named = data(run(*words, "--compute-capability", "sm86"))
    assert [row["capability"] for row in named["engines"]] == ["sm86"] * 2
    assert named["verification"] is None
    assert data(run(*words, "--compute-capability", "sm1"), 2)["error"] == {
        "type": "UsageError",
        "what": "the double builds for no compute capability `sm1`",
        "where": None,
        "hint": "see --help",
    }
    embedded = data(run("embed", *words[1:], "--text", "a cat"))
    assert embedded["embeddings"][0]["values"][1:3] == [1, 0]
    missing = data(run("verify", *words[1:-2], "--plugin", "/nowhere.so", "--json", "-"), 3)
    assert "needs its plug-in libclip_edge_tensorrt.so" in missing["error"]["what"]


def test_backends_that_are_not_here(run: Run, tiny_bundle: Path) -> None:
    for name in ("coreml", "cuda"):
        error = data(run("embed", tiny_bundle, "--text", "a", "--backend", name, "--json", "-"), 2)["error"]
        assert error["type"] == "UsageError"
        assert error["what"].startswith(f"backend `{name}` is not in this build of the library")
    nothing = data(run("embed", tiny_bundle, "--text", "a", "--backend", "tensorrt", "--json", "-"), 1)["error"]
    assert nothing["what"] == "nothing in the bundle runs on `tensorrt`"
    assert nothing["hint"] == "export it again with --target trt"
    refused = data(run("build", tiny_bundle, "--json", "-"), 1)["error"]
    assert "there is no engine to build" in refused["what"]
