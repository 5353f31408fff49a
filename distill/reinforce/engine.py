"""Shard by shard: plan, make, resume. A shard is a task that any process can do, and always with the same bytes."""

from __future__ import annotations

import functools
import importlib.metadata
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clip_edge import __version__
from clip_edge.console import SILENT, Console
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.samples import DataSet
from clip_edge.distill.reinforce import knowledge
from clip_edge.distill.reinforce.augment import ReplaySpec, pixels_sha256, versions
from clip_edge.distill.reinforce.captioners import Captioner, load_captioner
from clip_edge.distill.reinforce.manifest import (
    NAME,
    OTHER_JOB,
    FileRecord,
    Job,
    Manifest,
    read_manifest,
    refuse_other_job,
    write_manifest,
)
from clip_edge.distill.reinforce.shards import Shard, check_picture, check_shard, damaged, shards_of
from clip_edge.distill.reinforce.sidecar import (
    SUFFIX,
    Dtype,
    Header,
    Sidecar,
    Skipped,
    merge,
    read_tensors,
    write_sidecar,
)
from clip_edge.distill.teacher import Teacher, load_teacher
from clip_edge.errors import ArtifactError, DataError, UsageError, unknown_name
from clip_edge.files import disk_errors, human_bytes, sha256_file

PIECE = 256  # pictures between two places from where a killed run continues
PARTIAL = ".partial"
TRIAL = 8  # pictures that a dry run really describes, to tell how long all of them take


@dataclass(frozen=True)
class Options:
    """What `clip-edge reinforce` may be asked for. `out` None puts sidecars beside the shards."""

    data: Path
    teachers: tuple[str, ...]
    out: Path | None = None
    split: str = "train"
    augmentations: int = 5
    captions: int = 2
    captioner: str | None = None
    languages: tuple[str, ...] = ()
    dtype: Dtype = "bf16"
    seed: int = 0
    batch_size: int = 64
    device: str | None = None
    replay: ReplaySpec = field(default_factory=ReplaySpec)


@dataclass(frozen=True)
class Work:
    """An opened data set, the job, where its sidecars go, and the models that do it."""

    dataset: DataSet
    job: Job
    folder: Path
    teachers: tuple[Teacher, ...]
    captioner: Captioner | None

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The shards of the data set, in order."""
        return shards_of(self.dataset)

    def sidecar_of(self, shard: Shard) -> Path:
        """The file that describes a shard."""
        return self.folder / f"{shard.name}{SUFFIX}"


def prepare(options: Options) -> Work:
    """Load the models and fix everything that decides the result.

    Raises:
        UsageError: options, teachers or captioner that cannot be used.
        UnavailableError: a package or a download is missing.
    """
    dataset = open_dataset(options.data, options.split)
    languages = choose_languages(dataset, options.languages)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    captioner = None
    if options.captions:
        captioner = load_captioner(choose_captioner(options, dataset), dataset, languages, device)
    teachers = tuple(_teacher(spec, str(device)) for spec in options.teachers)
    job = Job(
        teachers=tuple(teacher.info for teacher in teachers),
        replay=options.replay,
        augmentations=options.augmentations,
        captions=options.captions,
        captioner="" if captioner is None else captioner.source.partition(":")[0],
        captioner_sha256="" if captioner is None else captioner.sha256,
        languages=tuple(dict.fromkeys((*languages, *(captioner.languages if captioner else ())))),
        dtype=options.dtype,
        seed=options.seed,
        batch_size=options.batch_size,
        threads=torch.get_num_threads(),
        device=device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
        versions={**versions(), **{name: importlib.metadata.version(name) for name in ("numpy", "torch")}},
        pixels_sha256=pixels_sha256(),
    )
    return Work(dataset, job, output_folder(options.out, dataset), teachers, captioner)


@functools.lru_cache(maxsize=8)  # a worker process does many shards with the same teachers
def _teacher(spec: str, device: str) -> Teacher:
    return load_teacher(spec, device=device)


def choose_languages(dataset: DataSet, asked: Sequence[str]) -> tuple[str, ...]:
    """The languages whose true captions are embedded: those asked for, or all."""
    for lang in asked:
        if lang not in dataset.langs:
            raise unknown_name("caption language", lang, dataset.langs)
    return tuple(dict.fromkeys(asked)) or dataset.langs


def choose_captioner(options: Options, dataset: DataSet) -> str:
    """The captioner asked for; the built-in data set has one of its own."""
    if options.captioner:
        return options.captioner
    if dataset.info:
        return "rewrite"
    raise UsageError(
        f"{options.captions} synthetic captions per picture need a captioner",
        hint="name one with --captioner (file:F.jsonl, open_clip:coca_..., hf:FOLDER), or make none: --captions 0",
    )


def output_folder(out: Path | None, dataset: DataSet) -> Path:
    """`OUT/<split>`, or the folder of the shards when no OUT is given."""
    if out is not None:
        return out / dataset.split
    folders = {Path(file).parent for file in dataset.files}
    if dataset.texts or len(folders) != 1:
        raise UsageError(
            "this data set has no shards in one folder to put sidecars beside", hint="name a folder: --out DIR"
        )
    return folders.pop()


def expect(work: Work) -> dict[str, Any]:
    """How large the result will be, and how long it takes, measured on a few pictures; writes nothing."""
    numbers = range(min(TRIAL, len(work.dataset)))
    with ThreadPoolExecutor() as pool, _repeatable():
        for _ in range(2):  # the first round warms up
            started_s = time.monotonic()
            tensors, _ = knowledge.describe(work.dataset, "", 0, numbers, work.job, work.teachers, work.captioner, pool)
            trial_s = time.monotonic() - started_s
    each = sum(tensor.nbytes for tensor in tensors.values()) / max(1, len(tensors["position"]))
    return {
        "samples": len(work.dataset),
        "shards": len(work.shards),
        "bytes_per_sample": round(each),
        "expected_bytes": round(each * len(work.dataset)),
        "expected_s": round(trial_s / len(numbers) * len(work.dataset), 1),
        "augmented_pictures_per_s": round(len(numbers) * work.job.augmentations / trial_s, 1),
    }


def reinforce(work: Work, console: Console = SILENT) -> Manifest:
    """Make every sidecar that is missing, in this process.

    Raises:
        ArtifactError: the folder holds sidecars of another job or of other pictures.
    """
    manifest, todo = begin(work)
    with console.progress("reinforce", len(work.dataset), "pictures") as meter:
        meter.advance(len(work.dataset) - sum(len(shard) for shard in todo))
        for shard in todo:
            record, skipped = make_shard(work, shard, meter.advance)
            manifest = manifest.with_file(record, skipped)
            write_manifest(work.folder, manifest)
    return finish(work, manifest)


def begin(work: Work) -> tuple[Manifest, list[Shard]]:
    """The manifest as far as the work is done, and the shards that are left."""
    with disk_errors(work.folder):
        work.folder.mkdir(parents=True, exist_ok=True)
    if (work.folder / NAME).is_file():
        manifest = read_manifest(work.folder)
        refuse_other_job(manifest.job, work.job, work.folder / NAME)
        manifest = replace(manifest, job=work.job, complete=False)
    else:
        created_by = f"clip-edge {__version__}"
        manifest = Manifest(1, created_by, work.dataset.name, work.dataset.split, False, work.job, ())
    todo = []
    for shard in work.shards:
        found = existing(work, shard, manifest)
        if found is None:
            todo.append(shard)
        else:
            manifest = manifest.with_file(*found)
    write_manifest(work.folder, manifest)
    return manifest, todo


def existing(work: Work, shard: Shard, manifest: Manifest) -> tuple[FileRecord, tuple[Skipped, ...]] | None:
    """The record of a sidecar that an earlier run finished; None when there is none.

    Raises:
        ArtifactError: the file was damaged since, or describes other pictures.
    """
    path = work.sidecar_of(shard)
    if not path.exists():
        return None
    sidecar = Sidecar(path, work.job.shape)
    if sidecar.header.job != work.job.id:
        raise ArtifactError("the sidecar was made by another job", where=path, hint=OTHER_JOB)
    record = finished(path, shard, len(sidecar))
    known = {file.shard: file for file in manifest.files}.get(shard.name)
    if known is not None and known.sha256 != record.sha256:
        raise damaged(path, known.sha256, record.sha256)
    check_shard(sidecar, shard, work.dataset)
    return record, sidecar.header.skipped


def make_shard(
    work: Work, shard: Shard, advance: Callable[[int], None] = lambda count: None
) -> tuple[FileRecord, tuple[Skipped, ...]]:
    """Write the sidecar of one shard; pieces that an earlier run finished are taken over."""
    pieces = []
    folder = work.folder / PARTIAL / work.job.id[:16] / shard.name
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool, _repeatable():
        for start in range(shard.first, shard.last, PIECE):
            numbers = range(start, min(start + PIECE, shard.last))
            path = folder / f"{start - shard.first:08d}{SUFFIX}"
            if not _usable_piece(path, work, shard, numbers):
                tensors, skipped = knowledge.describe(
                    work.dataset, shard.name, shard.first, numbers, work.job, work.teachers, work.captioner, pool
                )
                write_sidecar(path, tensors, Header(1, work.job.id, shard.name, len(numbers), skipped))
            pieces.append(read_tensors(path))
            advance(len(numbers))
    skipped = tuple(one for _, header in pieces for one in header.skipped)
    target = work.sidecar_of(shard)
    tensors = merge([tensors for tensors, _ in pieces])
    write_sidecar(target, tensors, Header(1, work.job.id, shard.name, len(shard), skipped))
    rows = len(tensors["position"])
    del pieces, tensors  # the maps are closed before their files go
    shutil.rmtree(folder)
    return finished(target, shard, rows), skipped


def finished(path: Path, shard: Shard, rows: int) -> FileRecord:
    """The manifest's line about a sidecar that was just written or found."""
    return FileRecord(path.name, shard.name, rows, sha256_file(path), path.stat().st_size)


def _usable_piece(path: Path, work: Work, shard: Shard, numbers: range) -> bool:
    """Whether an earlier run left this piece whole and the pictures are still the same."""
    if not path.is_file():
        return False
    try:
        piece = Sidecar(path, work.job.shape)
        if piece.header.job != work.job.id or piece.header.samples != len(numbers):
            return False
        places = (shard.first + piece.positions.astype(np.int64)).tolist()
        for row, place in enumerate(places):
            if place not in numbers or piece.keys[row] != work.dataset.keys[place]:
                return False
            check_picture(piece, row, work.dataset.sample(place).image)
    except (ArtifactError, DataError):
        return False
    return True


@contextmanager
def _repeatable() -> Iterator[None]:
    """GPU kernels that give the same bits every time, in full fp32."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = True, False, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = before


def finish(work: Work, manifest: Manifest) -> Manifest:
    """Mark the manifest complete and remove what only restarts needed."""
    manifest = replace(manifest, complete=True)
    write_manifest(work.folder, manifest)
    shutil.rmtree(work.folder / PARTIAL, ignore_errors=True)
    for leftover in (*work.folder.glob(f".*{SUFFIX}.partial-*"), *work.folder.glob(f".{NAME}.partial-*")):
        leftover.unlink(missing_ok=True)  # what a killed run was writing
    return manifest


def summary(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """The result as data."""
    rows, size = sum(file.samples for file in manifest.files), sum(file.bytes for file in manifest.files)
    return {
        "folder": str(folder),
        "samples": rows,
        "skipped": [vars(one) for one in manifest.skipped],
        "bytes": size,
        "bytes_per_sample": round(size / rows, 1) if rows else 0,
        "size": human_bytes(size),
        "job": manifest.job.id,
    }
