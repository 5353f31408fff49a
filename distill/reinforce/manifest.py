"""reinforce.json: what made the sidecars of a folder, so that nobody trains on numbers that do not fit."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from clip_edge.distill.reinforce.augment import ReplaySpec, pixels_sha256, versions
from clip_edge.distill.reinforce.sidecar import Dtype, Shape, Skipped
from clip_edge.distill.teacher import TeacherInfo
from clip_edge.errors import ArtifactError, UsageError
from clip_edge.files import inside, read_json, write_json
from clip_edge.schema import as_dict, build

NAME = "reinforce.json"
OTHER_JOB = "name another folder with --out, or delete the sidecars and reinforce.json of this one"


@dataclass(frozen=True)
class Job:
    """Everything that decides the bytes of a sidecar, beside the pictures and captions themselves.

    `batch_size` and `threads` are here because sums of floating point numbers depend on both in the last bit.
    """

    teachers: tuple[TeacherInfo, ...]
    replay: ReplaySpec
    augmentations: int
    captions: int
    captioner: str
    captioner_sha256: str
    languages: tuple[str, ...]
    dtype: Dtype
    seed: int
    batch_size: int
    threads: int
    device: str
    versions: dict[str, str]
    pixels_sha256: str
    made_from: Literal["teachers", "datacompdr"] = "teachers"

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ValueError("`teachers` must name at least one")
        for name, least, most in (("augmentations", 1, 1000), ("captions", 0, 100), ("batch_size", 1, 65536)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"`{name}` must lie in {least}..{most}; found {getattr(self, name)}")

    @property
    def id(self) -> str:
        """A hash that every sidecar of this job carries. Where the teachers lie does not matter, only what they are."""
        plain = as_dict(self)
        for teacher in plain["teachers"]:
            del teacher["source"], teacher["name"]
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    @property
    def shape(self) -> Shape:
        """What its sidecars look like."""
        dims = tuple(teacher.dim for teacher in self.teachers)
        return Shape(self.augmentations, self.replay.ops, dims, self.dtype, self.languages)


@dataclass(frozen=True)
class FileRecord:
    """A finished sidecar: `samples` counts its rows."""

    path: str
    shard: str
    samples: int
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """reinforce.json. `complete` turns true when every shard of the split has its sidecar."""

    schema: int
    created_by: str
    data: str
    split: str
    complete: bool
    job: Job
    files: tuple[FileRecord, ...]
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        if self.schema != 1:
            raise ValueError(f"`schema` must be 1; found {self.schema}: the folder was written by a newer clip-edge")

    def with_file(self, record: FileRecord, skipped: tuple[Skipped, ...]) -> Manifest:
        """The manifest after one more sidecar was finished, in the order of the shards whatever finished first."""
        files = {file.shard: file for file in self.files} | {record.shard: record}
        others = tuple(one for one in self.skipped if one.shard != record.shard)
        ordered = tuple(files[name] for name in sorted(files))
        return replace(self, files=ordered, skipped=tuple(sorted((*others, *skipped), key=lambda s: (s.shard, s.key))))


def find_folder(folder: Path, split: str) -> Path:
    """The folder that holds reinforce.json: the one given, or its sub-folder for the split.

    Raises:
        UsageError: neither has one.
    """
    for candidate in (folder / split, folder):
        if (candidate / NAME).is_file():
            return candidate
    raise UsageError(
        f"no reinforced data for the split `{split}` in {folder}", hint="make it with `clip-edge reinforce DATA`"
    )


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`.

    Raises:
        ArtifactError: missing, damaged, hostile or from a newer version.
    """
    path = folder / NAME
    manifest = build(Manifest, read_json(path), where=path, error=ArtifactError)
    for file in manifest.files:
        inside(folder, file.path)
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write reinforce.json in one step."""
    write_json(folder / NAME, as_dict(manifest))


def refuse_other_versions(job: Job, where: Path, *, allow: bool = False) -> None:
    """Raise unless a replay here gives the pixels that the teachers saw.

    `allow` accepts other versions of Pillow and torchvision as long as every operation still gives the same pixels.

    Raises:
        ArtifactError: other versions, or other pixels.
    """
    here, there = versions(), {name: job.versions.get(name, "unknown") for name in versions()}
    pins = " ".join(f"{name}=={version}" for name, version in there.items())
    found, made = (", ".join(f"{name} {version}" for name, version in one.items()) for one in (here, there))
    if pixels_sha256() != job.pixels_sha256:
        raise ArtifactError(
            f"the augmentations give other pixels here ({found}) than where this was made ({made})",
            where=where,
            hint=f"pip install {pins}, or make it again with `clip-edge reinforce`",
        )
    if here != there and not allow:
        raise ArtifactError(
            f"made with {made}; found {found}",
            where=where,
            hint=f"pip install {pins}; or accept the difference (allow_other_versions): "
            "every operation gives the same pixels on our chart",
        )


def refuse_other_job(stored: Job, job: Job, where: Path) -> None:
    """Raise ArtifactError when `job` would not give the bytes of `stored`, naming the first difference."""
    if stored.id == job.id:
        return
    if len(stored.teachers) != len(job.teachers):
        what = f"{len(stored.teachers)} teachers; now there are {len(job.teachers)}"
        raise ArtifactError(f"this folder was made with {what}", where=where, hint=OTHER_JOB)
    for old, new in zip(stored.teachers, job.teachers, strict=True):
        if not old.same_numbers(new):
            raise ArtifactError(
                f"this folder was made with another version of a teacher: expected {old.name} with weights "
                f"{old.weights_sha256[:16]}..., found {new.name} with {new.weights_sha256[:16]}...",
                where=where,
                hint=OTHER_JOB,
            )
    for name in vars(job):
        old_value, new_value = getattr(stored, name), getattr(job, name)
        if name != "teachers" and old_value != new_value:
            raise ArtifactError(
                f"this folder was made with another `{name}`: expected {old_value}, found {new_value}",
                where=where,
                hint=OTHER_JOB,
            )
