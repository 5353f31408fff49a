"""`clip-edge export` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clip_edge.bundle import Bundle
from clip_edge.cli import main
from clip_edge.export.targets import TARGETS


def test_export_writes_a_bundle_and_one_object(
    tiny_student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    assert main(["export", str(tiny_student), "--target", "onnx", "--out", str(out), "--json", "-", "-q"]) == 0
    output = capsys.readouterr()
    data = json.loads(output.out)
    assert data["bundle"] == str(out)
    assert data["manifest"]["artifacts"][0]["verification"]["min_cosine"] > 0.9999
    assert [check["tower"] for proof in data["proofs"] for check in proof["towers"]] == ["image", "text"]
    assert all(check["p1_cosine"] > 0.9999 for proof in data["proofs"] for check in proof["towers"])
    assert data["bytes"] == sum(entry.bytes for entry in Bundle.open(out).manifest.files.values())
    assert output.err == ""


def test_dry_run_writes_nothing(tiny_student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bundle"
    assert main(["export", str(tiny_student), "--target", "onnx", "--out", str(out), "--dry-run"]) == 0
    assert capsys.readouterr().out == (f"would export tiny to {out}: onnx/vision_model.onnx, onnx/text_model.onnx\n")
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--target", "onix"],
            f"error: unknown target: `onix`\n\nhint: did you mean `onnx`? known: {', '.join(sorted(TARGETS))}\n",
        ),
        (
            ["--target", "onnx", "--precision", "fp3"],
            "error: unknown precision of target `onnx`: `fp3`\n\n"
            "hint: did you mean `fp32`? known: fp16, fp32, int4, int8\n",
        ),
    ],
)
def test_near_misses_are_named(
    options: list[str], message: str, tiny_student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tiny_student), "--out", str(tmp_path / "out"), *options]) == 2
    assert capsys.readouterr().err == message


def test_an_existing_folder_is_refused(
    tiny_student: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tiny_student), "--target", "onnx", "--out", str(tiny_bundle)]) == 2
    assert capsys.readouterr().err == (
        f"error: the output folder exists: {tiny_bundle}\n"
        "\nhint: name another folder with --out, or remove this one first\n"
    )


@pytest.mark.slow
def test_int8_for_one_kind_of_processor(
    tiny_student: Path, tiny_calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(tiny_student), "--target", "onnx", "--precision", "int8", "--machine", "x86-vnni"]
    assert main([*words, "--calibration", str(tiny_calibration), "--out", str(tmp_path / "bundle"), "-q"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "bundle"), "--quantization"]) == 0
    told = capsys.readouterr().out
    assert "weights int8 in -127..127" in told
    assert "without it sums saturate and the embedding is another (--machine x86-vnni)" in told


@pytest.mark.parametrize(
    ("target", "precision"), [("onnx", "int8"), ("trt", "int8"), ("trt", "fp8"), ("coreml", "w8a8")]
)
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_ranges_without_data_are_refused_before_the_model_is_read(
    target: str, precision: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(tmp_path / "no-student"), "--target", target, "--precision", precision, *options]
    assert main([*words, "--out", str(tmp_path / "bundle")]) == 2
    assert capsys.readouterr().err == (
        f"error: precision `{precision}` of target `{target}` measures ranges on your own data; none was given\n\n"
        "hint: add --calibration DATA, pictures and sentences like those in use: random ranges would rank wrongly\n"
    )
    assert list(tmp_path.iterdir()) == []
