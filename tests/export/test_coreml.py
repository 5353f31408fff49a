"""Core ML packages of the tiny student: proved by running them, and read by coremltools where it can."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clip_edge.bundle import TOWERS, Bundle, Precision, Tower
from clip_edge.console import SILENT
from clip_edge.errors import BundleError, ConfigError, ExportError, UnavailableError
from clip_edge.export.coreml import choose_ios, write_tower
from clip_edge.export.coreml.package import MANIFEST, MODEL, WEIGHTS, add_function, read_package
from clip_edge.export.coreml.tools import coremltools
from clip_edge.export.exporter import Request, export
from clip_edge.export.job import Job
from clip_edge.export.sources import Exportable, load_source
from clip_edge.export.targets import TARGETS
from clip_edge.export.towers import probe_ids, probe_pixels
from clip_edge.quantization import read_quantization
from clip_edge.runtime.backends import Options, open_tower
from clip_edge.runtime.backends.mil.evaluate import prepare
from clip_edge.runtime.backends.mil.program import read_program
from clip_edge.runtime.verify import verify

NEWEST: tuple[Precision, ...] = ("fp16", "w8a8", "pal4", "int4")
OLDEST: tuple[Precision, ...] = ("fp32", "int8", "pal6")


@pytest.fixture(scope="module")
def newest(tiny_student: Path, tiny_calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """For iOS 18, with both towers in one package too."""
    requests = [Request("coreml", precision) for precision in NEWEST] + [Request("coreml-multifunction", "fp16")]
    out = tmp_path_factory.mktemp("coreml") / "newest"
    return export(tiny_student, requests, out, ios=18, calibration=tiny_calibration)[0]


@pytest.fixture(scope="module")
def oldest(tiny_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """For iOS 16."""
    out = tmp_path_factory.mktemp("coreml") / "oldest"
    return export(tiny_student, [Request("coreml", precision) for precision in OLDEST], out, ios=16)[0]


def spec_of(bundle: Bundle, path: str) -> Any:
    return coremltools().proto.Model_pb2.Model.FromString((bundle.folder / path / MODEL).read_bytes())


@pytest.mark.slow
def test_every_package_was_run_and_compared(newest: Bundle, oldest: Bundle) -> None:
    found = [item for bundle in (newest, oldest) for item in bundle.manifest.artifacts]
    assert len(found) == 2 * (len(NEWEST) + len(OLDEST) + 1)
    for item in found:
        assert item.verification is not None
        assert item.verification.backend == "mil"
        assert item.verification.min_cosine >= item.verification.tolerance
        assert item.batch == 1
        assert item.input_dtype == ("uint8" if item.tower == "image" else "int32")
    fp32 = [item.verification for item in found if item.precision == "fp32"]
    assert all(proof is not None and proof.max_abs < 2e-6 for proof in fp32)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "version"), [("newest", 9), ("oldest", 7)])
def test_names_types_and_metadata(name: str, version: int, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(name)
    for item in (item for item in bundle.manifest.artifacts if item.target == "coreml"):
        assert {path.removeprefix(f"{item.path}/") for path in bundle.manifest.listed(item.path)} == {
            MANIFEST,
            MODEL,
            WEIGHTS,
        }
        spec = spec_of(bundle, item.path)
        assert spec.specificationVersion == version
        metadata = spec.description.metadata
        assert metadata.userDefined["clip-edge.embedding_space"] == bundle.manifest.embedding.space
        assert not [key for key in metadata.userDefined if "date" in key]
        assert metadata.shortDescription == f"tiny: the {item.tower} tower of a CLIP model, {item.precision}"
        (given,), (made,) = spec.description.input, spec.description.output
        assert (given.name, made.name) == (item.input, item.output)
        assert given.shortDescription
        assert made.shortDescription
        assert list(made.type.multiArrayType.shape) == [1, 24]
        if item.tower == "image":
            picture = given.type.imageType
            assert (picture.width, picture.height, picture.colorSpace) == (32, 32, picture.RGB)
        else:
            assert list(given.type.multiArrayType.shape) == [1, 16]
            assert given.type.multiArrayType.dataType == given.type.multiArrayType.INT32


@pytest.mark.slow
def test_lower_precisions_are_smaller_and_say_what_they_did(newest: Bundle, oldest: Bundle) -> None:
    for bundle, precision, operation in (
        (oldest, "int8", "constexpr_affine_dequantize"),
        (oldest, "pal6", "constexpr_lut_to_dense"),
        (newest, "pal4", "constexpr_lut_to_dense"),
        (newest, "int4", "constexpr_blockwise_shift_scale"),
        (newest, "w8a8", "quantize"),
    ):
        item = bundle.manifest.artifact("image", ("coreml",), precision)
        assert item.quantization is not None
        report = read_quantization((bundle.folder / item.quantization).read_bytes(), bundle.folder)
        assert report.precision == precision
        assert report.min_cosine >= 0.97
        assert {layer.precision for layer in report.layers} & {precision}
        assert all(layer.snr_db is None or layer.snr_db > 10 for layer in report.layers)
        operations = [each.type for each in saved(bundle, item.path).operations]
        assert operation in operations
        size = (bundle.folder / item.path / WEIGHTS).stat().st_size
        plain = (newest.folder / newest.manifest.artifact("image", ("coreml",), "fp16").path / WEIGHTS).stat().st_size
        assert size < (0.9 if precision == "w8a8" else 0.75) * plain
    assert newest.manifest.artifact("image", ("coreml",), "w8a8").quantization is not None


def saved(bundle: Bundle, path: str) -> Any:
    return read_program(read_package(bundle.folder / path)).functions["main"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"),
    [("newest", "int4"), ("newest", "pal4"), ("oldest", "int8"), ("oldest", "pal6"), ("oldest", "fp32")],
)
def test_weights_are_what_apples_own_reader_finds(name: str, precision: str, request: pytest.FixtureRequest) -> None:
    coremltools()
    from coremltools.converters.mil.frontend.milproto.load import load

    bundle: Bundle = request.getfixturevalue(name)
    for tower in TOWERS:
        folder = bundle.folder / bundle.manifest.artifact(tower, ("coreml",), precision).path
        spec = spec_of(bundle, str(folder.relative_to(bundle.folder)))
        theirs = load(spec, spec.specificationVersion, str((folder / WEIGHTS).parent)).functions["main"]
        mine = prepare(saved(bundle, str(folder.relative_to(bundle.folder)))).values
        compared = 0
        for operation in theirs.operations:
            value = operation.outputs[0]
            if operation.op_type.startswith("constexpr_"):
                expected = operation.materialized_val_inference()
            elif operation.op_type == "const" and value.name in mine and not isinstance(value.val, str):
                expected = value.val
            else:
                continue
            np.testing.assert_allclose(mine[value.name], expected, rtol=1e-3, atol=1e-7)  # they round products to fp16
            compared += 1
        assert compared > 10


@pytest.mark.slow
def test_both_towers_in_one_package(newest: Bundle) -> None:
    (path,) = {item.path for item in newest.manifest.artifacts if item.target == "coreml-multifunction"}
    spec = spec_of(newest, path)
    assert [function.name for function in spec.description.functions] == ["image", "text"]
    assert spec.description.defaultFunctionName == "image"
    assert not spec.description.input
    assert set(spec.mlProgram.functions) == {"image", "text"}
    singles = [newest.manifest.artifact(tower, ("coreml",), "fp16").path for tower in TOWERS]
    sizes = [(newest.folder / each / WEIGHTS).stat().st_size for each in (path, *singles)]
    assert sizes[0] <= sizes[1] + sizes[2]
    files = read_package(newest.folder / singles[0])
    twice = add_function(add_function(None, "a", files), "b", files)
    assert len(twice[WEIGHTS]) == len(add_function(None, "a", files)[WEIGHTS])  # the same constants are stored once


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(oldest: Bundle, tiny_student: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from clip_edge.export.exporter import Request, export\n"
        "export(sys.argv[1], [Request('coreml', 'int8')], Path(sys.argv[2]), ios=16)"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(tiny_student), str(tmp_path / "again")]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # and coremltools is quiet about it
    for tower in TOWERS:
        path = oldest.manifest.artifact(tower, ("coreml",), "int8").path
        for name in (MANIFEST, MODEL, WEIGHTS):
            assert (tmp_path / "again" / path / name).read_bytes() == (oldest.folder / path / name).read_bytes()


@pytest.mark.slow
def test_a_changed_package_is_refused(oldest: Bundle, tmp_path: Path) -> None:
    item = oldest.manifest.artifact("image", ("coreml",), "int8")
    changed = {**oldest.manifest.files}
    weights = oldest.folder / item.path / WEIGHTS
    entry = dataclasses.replace(changed[f"{item.path}/{WEIGHTS}"], sha256="0" * 64)
    manifest = dataclasses.replace(oldest.manifest, files={**changed, f"{item.path}/{WEIGHTS}": entry})
    with pytest.raises(BundleError, match=f"{weights.name} was changed"):
        open_tower("mil", dataclasses.replace(oldest, manifest=manifest), item, Options())


@pytest.mark.slow
def test_a_package_with_other_names_is_refused(oldest: Bundle) -> None:
    item = dataclasses.replace(oldest.manifest.artifact("image", ("coreml",), "int8"), output="vector")
    with pytest.raises(BundleError) as caught:
        open_tower("mil", oldest, item, Options())
    assert caught.value.what == (
        f"mil cannot load {item.path}: must map `image` to `vector`; found ['image'] and ['image_embeds']"
    )


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML is there")
def test_core_ml_itself_needs_a_mac(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        verify(tmp_path, "coreml")
    assert caught.value.exit_code == 3
    assert "`coremltools on macOS`, which is not installed" in caught.value.what
    assert caught.value.hint == "pip install coremltools, on a Mac; elsewhere `--backend mil` runs the same packages"


@pytest.mark.parametrize(
    ("precision", "ios", "shared", "message", "hint"),
    [
        (
            "int4",
            17,
            False,
            "precision `int4` needs iOS 18; asked for iOS 17",
            "use --ios 18, or what iOS 17 reads: fp32, fp16, int8, w8a8, pal6, pal4",
        ),
        (
            "w8a8",
            16,
            False,
            "precision `w8a8` needs iOS 17; asked for iOS 16",
            "use --ios 17, or what iOS 16 reads: fp32, fp16, int8, pal6, pal4",
        ),
        ("fp16", 17, True, "one package with both towers needs iOS 18; asked for iOS 17", "use --ios 18"),
    ],
)
def test_an_ios_that_is_too_old(precision: str, ios: int, shared: bool, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_ios(TARGETS["coreml"].precisions, precision, ios, shared=shared)
    assert (caught.value.what, caught.value.hint) == (message, hint)


def test_the_usual_ios_is_the_oldest_that_does_the_precision_justice() -> None:
    found = {name: choose_ios((), name, None, shared=False) for name in TARGETS["coreml"].precisions}
    assert found == {"fp32": 16, "fp16": 16, "int8": 16, "w8a8": 17, "pal6": 18, "int4": 18, "pal4": 18}
    assert choose_ios((), "fp16", None, shared=True) == 18
    assert choose_ios((), "pal4", 16, shared=False) == 16


def job_for(source: Exportable, tower: Tower, module: nn.Module, precision: Precision) -> Job:
    probe = probe_pixels(source.preprocess.size) if tower == "image" else probe_ids(source.tokenizer.spec)
    return Job(tower, module.eval(), probe, source, TARGETS["coreml"], precision, None, SILENT)


class Loud(nn.Module):
    """A tower whose middle does not fit into fp16, though its result does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 16, 8, 8), nn.LayerNorm(16)
        self.linear = nn.Linear(16, 24)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, 32, 32) -> (B, 24)"""
        x = self.conv(pixels).flatten(2).transpose(1, 2) * 3e5
        embeds: Tensor = nn.functional.normalize(self.linear(self.norm(x).mean(1)), dim=-1)
        return embeds


@pytest.mark.slow
def test_what_leaves_the_range_of_fp16_stays_in_fp32(tiny_student: Path, tmp_path: Path) -> None:
    source = load_source(tiny_student)
    report = write_tower(job_for(source, "image", Loud(), "fp16"), tmp_path / "loud.mlpackage")
    assert report is not None
    assert report.min_cosine >= 0.999
    ranged = {layer.op for layer in report.layers if layer.reason == "values near the end of fp16's range"}
    assert "layer_norm" in ranged
    assert {layer.op for layer in report.layers if layer.reason == "the embedding's length"} >= {"real_div"}
    assert "linear" not in {layer.op for layer in report.layers}


class Whole(nn.Module):
    """A tower that reads all of a buffer through slices, as CLIP's text tower reads its mask."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 24)
        self.register_buffer("mask", torch.randn(16, 16))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, 32, 32) -> (B, 24)"""
        x = self.conv(pixels).flatten(2).transpose(1, 2)
        x = self.mask[: x.shape[1], : x.shape[1]].clamp(min=-1) @ x
        embeds: Tensor = nn.functional.normalize(self.linear(x.mean(1)), dim=-1)
        return embeds


@pytest.mark.slow
def test_a_slice_that_takes_everything_converts(tiny_student: Path, tmp_path: Path) -> None:
    job = job_for(load_source(tiny_student), "image", Whole(), "fp16")
    traced = torch.export.export(job.module, (torch.zeros(1, 3, 32, 32),)).run_decompositions({})
    assert any(node.target is torch.ops.aten.alias.default for node in traced.graph.nodes)  # else there is no case
    report = write_tower(job, tmp_path / "whole.mlpackage")
    assert report is not None
    assert report.min_cosine >= 0.999


class Sorting(nn.Module):
    """A tower with an operation that Core ML has not."""

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 24)"""
        return torch.special.bessel_j0(pixels.flatten(1)[:, :24])


@pytest.mark.slow
def test_an_operation_that_core_ml_lacks_is_named(tiny_student: Path, tmp_path: Path) -> None:
    source = load_source(tiny_student)
    with pytest.raises(ExportError) as caught:
        write_tower(job_for(source, "image", Sorting(), "fp32"), tmp_path / "x.mlpackage")
    assert caught.value.exit_code == 1
    assert "cannot convert the image tower for iOS 16" in caught.value.what
    assert "bessel_j0" in caught.value.what


def test_every_precision_can_be_asked_for_on_the_command_line(
    tiny_student: Path, tiny_emoji: Path, tmp_path: Path
) -> None:
    from clip_edge.cli import main

    for precision in TARGETS["coreml"].precisions:
        out = str(tmp_path / "bundle")
        code = main(
            [
                "export",
                str(tiny_student),
                "--target",
                "coreml",
                "--precision",
                precision,
                "--calibration",
                str(tiny_emoji),
                "--dry-run",
                "--out",
                out,
                "-q",
            ]
        )
        assert code == 0


def test_the_manifest_of_a_package_is_json(tmp_path: Path) -> None:
    from clip_edge.export.coreml.package import _files

    manifest = json.loads(_files(coremltools().proto.Model_pb2.Model(), b"")[MANIFEST])
    root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
    assert root["path"] == "com.apple.CoreML/model.mlmodel"
    assert len(manifest["itemInfoEntries"]) == 2
