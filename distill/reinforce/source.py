"""Who teaches a recipe: stored knowledge checked against what the recipe asks of it, and what a student inherits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clip_edge.distill.data.samples import UNKNOWN_LANGUAGE, DataSet
from clip_edge.distill.models.spec import Licence
from clip_edge.distill.reinforce.batches import Source, Stored
from clip_edge.distill.reinforce.reader import open_reinforced
from clip_edge.distill.teacher import TeacherInfo
from clip_edge.errors import ConfigError


def open_stored(
    dataset: DataSet,
    folder: Path,
    *,
    kinds: Sequence[str],
    langs: Sequence[str],
    check_hashes: bool,
    allow_other_versions: bool,
) -> Stored:
    """The knowledge that `clip-edge reinforce` stored in `folder` about `dataset`.

    Raises:
        ConfigError: it has no captions of one of `kinds`, or none in one of `langs`.
        ArtifactError: it is damaged, or about other pictures.
    """
    knowledge = open_reinforced(dataset, folder, check_hashes=check_hashes, allow_other_versions=allow_other_versions)
    job = knowledge.manifest.job
    if "synthetic" in kinds and not job.captions:
        raise ConfigError(
            "`captions` asks for synthetic ones, and the stored knowledge has none",
            where=knowledge.folder,
            hint="train on the true ones, --set 'captions=[\"true\"]', or make knowledge with --captions 2",
        )
    unknown = [lang for lang in langs if lang not in job.languages]
    if unknown and UNKNOWN_LANGUAGE not in job.languages:
        raise ConfigError(
            f"`langs` asks for {', '.join(unknown)}; the stored knowledge is about {', '.join(job.languages)}",
            where=knowledge.folder,
            hint="choose among these, or make knowledge with --langs",
        )
    return Stored(knowledge)


def choose_scales(wanted: Sequence[float], teachers: Sequence[TeacherInfo]) -> tuple[float, ...]:
    """The teachers' logit scales: those that the configuration wants, or else their own.

    Raises:
        ConfigError: another number of scales than of teachers.
    """
    if not wanted:
        return tuple(teacher.logit_scale for teacher in teachers)
    if len(wanted) != len(teachers):
        raise ConfigError(
            f"`teacher_scales` has {len(wanted)} values for {len(teachers)} teachers: "
            + ", ".join(teacher.name for teacher in teachers),
            hint="give one for each, in this order, or none to take the teachers' own",
        )
    return tuple(wanted)


def inherited_licences(teachers: Sequence[TeacherInfo]) -> list[Licence]:
    """What a student takes over from the weights that taught it: research-only teachers make it research-only."""
    return [
        Licence(f"distilled from {teacher.name}", teacher.licence or "unknown", teacher.research_only)
        for teacher in teachers
        if teacher.licence or teacher.research_only
    ]


def taught_by(source: Source, scales: Sequence[float]) -> dict[str, object]:
    """Who taught, for model.json."""
    teachers = [
        {"name": teacher.name, "weights_sha256": teacher.weights_sha256, "scale": scale}
        for teacher, scale in zip(source.teachers, scales, strict=True)
    ]
    return {"teachers": teachers, "knowledge_sha256": source.id}
