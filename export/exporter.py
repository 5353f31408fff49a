"""Export: a student folder becomes a bundle, or nothing at all when the numbers differ."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip_edge import __version__
from clip_edge.bundle import (
    GOLDEN,
    MANIFEST,
    SCHEMA,
    TOKENIZER,
    Artifact,
    Bundle,
    Manifest,
    Parity,
    Precision,
    Source,
    list_files,
)
from clip_edge.console import SILENT, Console
from clip_edge.distill.models.student import Student
from clip_edge.errors import VerificationError
from clip_edge.export import cases, huggingface
from clip_edge.export.calibration import Calibration, load_calibration
from clip_edge.export.job import Job, WriteTower
from clip_edge.export.segment import parts_to_write, write_graphs
from clip_edge.export.sources import Exportable, load_source
from clip_edge.export.targets import Target, file_name, find_target, refuse_unmeasured
from clip_edge.export.towers import fold, probe_ids, probe_pixels
from clip_edge.files import new_folder, refuse_existing, write_file
from clip_edge.golden import Golden
from clip_edge.preprocess import Floats, normalize, to_pixels
from clip_edge.quantization import SUFFIX, Machine
from clip_edge.runtime.verify import TowerCheck, Verification, verify
from clip_edge.runtime.verify_graphs import GraphCheck

VERSIONED = (
    "coremltools",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "open_clip_torch",
    "pillow",
    "timm",
    "tokenizers",
    "torch",
)
BATCH = 16


@dataclass(frozen=True)
class Request:
    """One target in one precision; `machine` is the kind of processor for which int8 is laid out."""

    target: str
    precision: Precision = "fp32"
    machine: Machine = "any"


class _Module(Protocol):
    write_tower: WriteTower


def export(
    model: str | Path,
    requests: Sequence[Request],
    out: Path,
    *,
    calibration: Path | None = None,
    capabilities: Sequence[str] = (),
    ios: int | None = None,
    segment: bool = False,
    console: Console = SILENT,
) -> tuple[Bundle, list[Verification]]:
    """Write `model` (a student folder, a run, or one of `sources.SOURCES`) as a bundle to `out`, and prove it.

    `calibration` is a data set, for precisions that are measured on pictures and sentences; `capabilities` are the
    GPUs that engines are built for ahead of time; `ios` is the oldest iOS that must read a Core ML package; `segment`
    adds the graphs for segmentation, which students merged for it have anyway.
    The same model gives the same bytes, file by file.

    Raises:
        UsageError: unknown target or precision; `out` exists; `segment` for a model or target that has no such parts.
        ConfigError: a precision needs calibration data, and there is none.
        CheckpointError: the model cannot be read.
        ExportError: a tower cannot be written.
        VerificationError: what was written gives other embeddings than PyTorch; nothing is left behind.
    """
    targets = {request: find_target(request.target, request.precision) for request in requests}
    for request in requests if calibration is None else ():
        refuse_unmeasured(request.target, request.precision)
    refuse_existing(out)
    source = load_source(model)
    by_name = {request.target: target for request, target in targets.items()}
    parts = parts_to_write(source, by_name, asked=segment)
    rows = None if calibration is None else load_calibration(calibration, source)
    with new_folder(out) as folder:
        manifest = _write(source, targets, folder, rows, tuple(capabilities), ios, parts, console)
        backends = dict.fromkeys(target.backend for target in targets.values())
        proofs = [verify(folder, name, threads=1, console=console) for name in backends]
        for proof in proofs:
            _judge(proof, model)
        checks: list[tuple[str, TowerCheck | GraphCheck]] = []
        for proof in proofs:
            checks += [(proof.backend, check) for check in proof.towers]
            checks += [(proof.backend, check) for check in proof.graphs]
        write_file(folder / MANIFEST, _with_parity(manifest, checks).to_bytes())
    return Bundle.open(out), [dataclasses.replace(proof, bundle=str(out)) for proof in proofs]


def _write(
    source: Exportable,
    targets: dict[Request, Target],
    folder: Path,
    calibration: Calibration | None,
    capabilities: tuple[str, ...],
    ios: int | None,
    parts: Student | None,
    console: Console,
) -> Manifest:
    """Every file of the bundle, the manifest without proofs last."""
    golden = make_golden(source)
    write_file(folder / GOLDEN, golden.to_bytes())
    probes = {"image": probe_pixels(source.preprocess.size), "text": probe_ids(source.tokenizer.spec)}
    artifacts: list[Artifact] = []
    pictures: list[tuple[str, Job]] = []
    with console.progress("exporting", total=2 * len(targets), unit="graphs") as meter:
        for tower, module in source.towers.items():
            folded = fold(tower, module, probes[tower])
            for request, target in targets.items():
                inputs = (tower, folded, probes[tower], source, target, request.precision)
                job = Job(*inputs, calibration, console, capabilities, ios, request.machine)
                artifacts.append(_write_artifact(job, request, folder))
                if tower == "image":
                    pictures.append((request.target, job))
                meter.advance()
    graphs = write_graphs(source, parts, pictures, golden, folder) if parts else ()
    write_file(folder / TOKENIZER, source.tokenizer.json_bytes)
    embedding = source.embedding()
    config = huggingface.config(source.name, embedding, source.image_input, source.text_input)
    write_file(folder / "config.json", config)
    write_file(folder / "preprocessor_config.json", huggingface.preprocessor_config(source.image_input))
    tokenizer_config = huggingface.tokenizer_config(source.tokenizer.json_bytes, source.tokenizer.spec)
    write_file(folder / "tokenizer_config.json", tokenizer_config)
    order = [(request.target, request.precision) for request in targets]
    manifest = Manifest(
        schema=SCHEMA,
        name=source.name,
        created_by=f"clip-edge {__version__}",
        embedding=embedding,
        image=source.image_input,
        text=source.text_input,
        artifacts=tuple(sorted(artifacts, key=lambda item: order.index((item.target, item.precision)))),
        licences=source.licences,
        research_only=source.research_only,
        source=Source(source.name, source.weights_sha256(), source.provenance),
        versions=_versions(),
        files=list_files(folder),
        graphs=graphs,
    )
    write_file(folder / MANIFEST, manifest.to_bytes())
    return manifest


def _write_artifact(job: Job, request: Request, folder: Path) -> Artifact:
    target, declaration = job.target, job.declaration
    path = file_name(target, job.tower, job.precision)
    (folder / path).parent.mkdir(exist_ok=True)
    writer = cast(_Module, importlib.import_module(target.module))
    report = writer.write_tower(job, folder / path)
    report_path = f"{path}.{job.tower}{SUFFIX}" if target.shared else f"{path}{SUFFIX}"
    if report is not None:
        write_file(folder / report_path, report.to_bytes())
    return Artifact(
        tower=job.tower,
        target=request.target,
        precision=request.precision,
        path=path,
        input=declaration.input,
        input_dtype=declaration.input_dtype,
        output=declaration.output,
        batch=target.batch,
        opset=target.opset_of(job.precision),
        parameters=sum(value.numel() for value in job.module.parameters()),
        verification=None,
        quantization=None if report is None else report_path,
    )


def make_golden(source: Exportable) -> Golden:
    """The golden set of a model: its references come from PyTorch, before any folding."""
    images, texts = cases.all_images(source.example_images), cases.all_texts(source.example_texts)
    pixels = np.stack([to_pixels(Image.fromarray(image), source.preprocess) for image in images])
    ids = source.tokenizer(texts)
    return Golden(
        images=tuple(images),
        pixels=pixels,
        texts=tuple(texts),
        input_ids=ids,
        image_embeds=_embed(source.image, normalize(pixels, source.preprocess)),
        text_embeds=_embed(source.text, ids),
    )


def _embed(encode: Callable[[Tensor], Tensor], rows: np.ndarray) -> Floats:
    with one_thread(), torch.inference_mode():
        parts = [encode(torch.from_numpy(rows[start : start + BATCH])) for start in range(0, len(rows), BATCH)]
        embeds: Floats = torch.cat(parts).numpy()
    return embeds


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order: the number of threads changes the last bit of an embedding, and so the bytes of a bundle."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a student needs not all of them
            continue
    return found


def _judge(proof: Verification, model: str | Path) -> None:
    if not proof.passed:
        raise VerificationError(
            "the exported model differs from PyTorch:\n  " + "\n  ".join(proof.problems),
            where=model,
            hint="nothing was written; report this together with the student's model.json",
        )


def _with_parity(manifest: Manifest, checks: Sequence[tuple[str, TowerCheck | GraphCheck]]) -> Manifest:
    parity = {
        check.path: Parity(backend, check.cases, check.min_cosine, check.mean_cosine, check.max_abs, check.tolerance)
        for backend, check in checks
    }
    artifacts = tuple(dataclasses.replace(item, verification=parity.get(item.path)) for item in manifest.artifacts)
    graphs = tuple(dataclasses.replace(item, verification=parity.get(item.path)) for item in manifest.graphs)
    return dataclasses.replace(manifest, artifacts=artifacts, graphs=graphs)
