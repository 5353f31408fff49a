"""What the recipe `sam-clip` reads: batches of two kinds, and what both teachers say about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_edge.distill.batches import reader_count, tell_problems
from clip_edge.distill.data.augment import AugmentSpec
from clip_edge.distill.data.languages import balanced_batches
from clip_edge.distill.data.prompts import prompt_batches
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.samples import DataSet
from clip_edge.distill.mask_teacher import MaskTeacher
from clip_edge.distill.models.checkpoint import LoadedStudent, load_student
from clip_edge.distill.models.masks import mask_side
from clip_edge.distill.models.pretrained import is_pretrained
from clip_edge.distill.models.spec import StudentSpec
from clip_edge.distill.reinforce.batches import Stored, make_reinforced_batches
from clip_edge.distill.reinforce.source import open_stored
from clip_edge.distill.run import Run
from clip_edge.distill.teacher import Teacher, TeacherInfo, load_teacher
from clip_edge.errors import ConfigError
from clip_edge.preprocess import PreprocessSpec

if TYPE_CHECKING:
    from clip_edge.distill.recipes.sam_clip import Config


@dataclass(frozen=True)
class MergeBatch:
    """One rank's share of a step: b pictures to name, and m scenes to outline (m = 0 but in stage `merge`)."""

    images: Tensor  # (b, 3, S, S) float32, normalised
    teacher_image: Tensor  # (b, D) unit vectors
    scenes: Tensor  # (m, 3, S, S)
    points: Tensor  # (m, K, 2, 2)
    labels: Tensor  # (m, K, 2)
    teacher_masks: Tensor  # (m K, 3, T, T) logits
    teacher_quality: Tensor  # (m K, 3)


@dataclass(frozen=True)
class Namer:
    """The CLIP teacher: asked at every step, or what it said once (`clip-edge reinforce`)."""

    source: Teacher | Stored

    @property
    def teachers(self) -> tuple[TeacherInfo, ...]:
        return (self.source.info,) if isinstance(self.source, Teacher) else self.source.teachers

    @property
    def id(self) -> str:
        return self.source.info.weights_sha256 if isinstance(self.source, Teacher) else self.source.id


def open_namer(teacher: str, knowledge: str, dataset: DataSet, *, device: torch.device) -> Namer:
    """Stored knowledge about `dataset`, or the teacher itself.

    Raises:
        UsageError, CheckpointError, ArtifactError: as `load_teacher` and `open_stored`.
        ConfigError: the knowledge is that of several teachers.
    """
    if not knowledge:
        return Namer(load_teacher(teacher, device=device))
    stored = open_stored(
        dataset, Path(knowledge), kinds=("true",), langs=(), check_hashes=True, allow_other_versions=False
    )
    if len(stored.teachers) != 1:
        names = ", ".join(info.name for info in stored.teachers)
        raise ConfigError(
            f"one CLIP teacher gives the space; the stored knowledge has {len(stored.teachers)}: {names}",
            where=knowledge,
            hint="make knowledge with one --teacher",
        )
    return Namer(stored)


def text_tower(teacher: str, spec: StudentSpec) -> LoadedStudent:
    """The CLIP teacher, whose text tower and tokenizer the merged student takes over as they are (paper, 4.1).

    Raises:
        ConfigError: it is no student of ours, or has another text tower or embedding size than `spec`.
    """
    if is_pretrained(teacher):
        raise ConfigError(
            "the CLIP teacher must be a student folder: the merged student takes over its text tower",
            where=teacher,
            hint="distill a student from it first, with the recipe mobileclip",
        )
    loaded = load_student(Path(teacher))
    ours, theirs = (
        {"text": one.text, "tokenizer": one.tokenizer, "embed_dim": one.embed_dim} for one in (spec, loaded.spec)
    )
    for name, wanted in ours.items():
        if theirs[name] != wanted:
            raise ConfigError(
                f"`{name}` of the CLIP teacher must be that of the student: expected {wanted}, found {theirs[name]}",
                where=teacher,
                hint="give the student's file the teacher's `text`, `tokenizer` and `embed_dim`",
            )
    return loaded


def joined(before: LoadedStudent, reader: LoadedStudent) -> dict[str, Tensor]:
    """The weights of `before`, with text tower and scale of `reader`."""
    state = dict(before.student.state_dict())
    taken = {
        name: value
        for name, value in reader.student.state_dict().items()
        if name.startswith("text.") or name in ("logit_scale", "logit_bias")
    }
    return state | taken


def batches(
    config: Config, run: Run, built: LoadedStudent, namer: Namer, outliner: MaskTeacher | None, start_step: int
) -> Iterator[MergeBatch]:
    """Batches of the stage from `start_step` on, a pure function of (seed, step)."""
    largest = replace(built.preprocess, size=max(config.sizes, default=built.preprocess.size))
    named = _named(config, run, built, namer, largest, start_step)
    nothing = torch.zeros(0)
    if outliner is None:
        for step, (images, wanted) in enumerate(named, start=start_step + 1):
            sized = _resized(images, config.sizes, config.seed, step)
            yield MergeBatch(sized, wanted, nothing, nothing, nothing, nothing, nothing)
        return
    for (images, wanted), scenes in zip(named, _scenes(config, run, built, outliner, start_step), strict=False):
        yield replace(scenes, images=images, teacher_image=wanted)


def _named(
    config: Config, run: Run, built: LoadedStudent, namer: Namer, spec: PreprocessSpec, start_step: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pictures (b, 3, S, S) and what the CLIP teacher embeds them as (b, D)."""
    shared: dict[str, Any] = {"spec": spec, "tokenizer": built.tokenizer, "langs": config.langs}
    shared |= {"batch_size": config.batch_size} | _reading(config, run, start_step)
    if isinstance(namer.source, Stored):
        for known in make_reinforced_batches(run.train_set, namer.source, kinds=("true",), **shared):
            yield known.images, known.teacher_image
        return
    view = namer.source.info.preprocess
    for batch in balanced_batches(run.train_set, view=view, augment=AugmentSpec(), **shared):
        yield batch.images, namer.source.encode_images(batch.views.numpy())


def _scenes(
    config: Config, run: Run, built: LoadedStudent, outliner: MaskTeacher, start_step: int
) -> Iterator[MergeBatch]:
    """Scenes, prompts, and the outlines of the mask teacher."""
    dataset = open_dataset(Path(config.masks_data), "train") if config.masks_data else run.train_set
    drawn = prompt_batches(
        dataset,
        spec=built.preprocess,
        view=outliner.preprocess,
        prompts=config.prompts,
        side=mask_side(built.student.image.trunk),
        batch_size=config.masks_batch_size,
        **_reading(config, run, start_step),
    )
    nothing = torch.zeros(0)
    for batch in drawn:
        masks, quality = outliner.ask(batch.views.numpy(), batch.points, batch.labels)
        yield MergeBatch(nothing, nothing, batch.images, batch.points, batch.labels, masks, quality)


def _reading(config: Config, run: Run, start_step: int) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "on_problem": tell_problems(run.console),
        "rank": run.here.rank,
        "world_size": run.here.world_size,
        "start_step": start_step,
        "workers": reader_count(config.workers),
    }


def _resized(images: Tensor, sizes: tuple[int, ...], seed: int, step: int) -> Tensor:
    """(b, 3, S, S) -> (b, 3, s, s): one of `sizes` for each step, the same in every process."""
    if not sizes:
        return images
    random = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    size = sizes[int(torch.randint(len(sizes), (), generator=random))]
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False)


def provenance(namer: Namer, outliner: MaskTeacher | None, start_sha256: str) -> dict[str, object]:
    """Who taught, for model.json."""
    teachers = [{"name": info.name, "weights_sha256": info.weights_sha256} for info in namer.teachers]
    if outliner is not None:
        teachers.append({"name": Path(outliner.source).name, "weights_sha256": outliner.weights_sha256})
    return {"teachers": teachers, "start_sha256": start_sha256}
