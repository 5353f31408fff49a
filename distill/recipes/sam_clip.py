"""Recipe `sam-clip`: one backbone that names things and outlines them, in three stages. docs/recipes/sam-clip.md.

SAM-CLIP (arXiv 2310.15308): the CLIP head is found first, then backbone and both heads learn from both teachers, then
the CLIP head gets used to other sizes. Imports of torch wait until `run`: `--dry-run` and `list` answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clip_edge.console import SILENT, Console
from clip_edge.distill.data.prompts import PromptSpec
from clip_edge.distill.settings import (
    EvaluationSettings,
    KeepSettings,
    LogSettings,
    OptimizerSettings,
    ScheduleSettings,
    check_counts,
)
from clip_edge.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from clip_edge.distill.data.samples import DataSet
    from clip_edge.distill.merging import MergeBatch
    from clip_edge.distill.models.student import Student

MAX_SIZE = 4096


@dataclass(frozen=True)
class Config:
    """Every knob; sam-clip.toml says what each one does."""

    stage: Literal["probe", "merge", "resolution"] = "probe"
    teacher: str = ""
    knowledge: str = ""
    masks_teacher: str = ""
    start: str = ""
    seed: int = 0
    steps: int = 2000
    batch_size: int = 256
    chunk_size: int = 0
    masks_batch_size: int = 8
    masks_weight: float = 10.0
    masks_data: str = ""
    quality_weight: float = 1.0
    backbone_lr_ratio: float = 0.1
    sizes: tuple[int, ...] = ()
    langs: tuple[str, ...] = ()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = -1
    prompts: PromptSpec = field(default_factory=PromptSpec)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    keep: KeepSettings = field(default_factory=KeepSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    log: LogSettings = field(default_factory=LogSettings)

    def __post_init__(self) -> None:
        check_counts(self, workers=self.workers)
        if self.chunk_size:
            raise ValueError("`chunk_size` must be 0: no loss of this recipe needs the whole batch at once")
        if not 0 < self.backbone_lr_ratio <= 1:
            raise ValueError(f"`backbone_lr_ratio` must lie in 0..1, above 0; found {self.backbone_lr_ratio}")
        if min(self.masks_weight, self.quality_weight) < 0 or self.masks_batch_size < 1:
            raise ValueError("`masks_weight` and `quality_weight` must not be negative, `masks_batch_size` at least 1")
        if self.stage != "merge" and (self.masks_teacher or self.masks_data):
            raise ValueError("`masks_teacher` and `masks_data` belong to `stage = merge`")
        if (self.stage == "resolution") != bool(self.sizes):
            raise ValueError("`sizes` belongs to `stage = resolution`, and that stage needs it")
        if any(not 16 <= size <= MAX_SIZE for size in self.sizes):
            raise ValueError(f"`sizes` must lie in 16..{MAX_SIZE}; found {list(self.sizes)}")


def run(
    config: Config, *, data: Path, student: str | Path, out: Path, resume: bool = False, console: Console = SILENT
) -> Path:
    """Take one stage with `student` on `data`; returns the student folder OUT/student.

    Raises:
        UsageError, ConfigError, DataError, CheckpointError, ArtifactError: before anything is written.
        TrainingError: the loss is not finite, or the student does not learn.
    """
    import torch
    from torch.nn import functional as F

    from clip_edge.distill import merging
    from clip_edge.distill.losses.masks import follow_outlines
    from clip_edge.distill.mask_teacher import load_mask_teacher, outline
    from clip_edge.distill.models.checkpoint import load_student
    from clip_edge.distill.models.dense import embed_map
    from clip_edge.distill.models.spec import same_student
    from clip_edge.distill.reinforce.source import inherited_licences
    from clip_edge.distill.run import open_run
    from clip_edge.distill.teacher import weights_sha256

    with open_run(config, data=data, student=student, out=out, console=console) as run:
        # Who teaches, and where does the student start? Stage `probe` takes over the text tower of the CLIP teacher.
        _check_settings(config)
        before = load_student(Path(config.start))
        if not same_student(before.spec, run.spec):
            raise ConfigError(f"`start` is another student than {run.spec.name}", where=config.start)
        namer = merging.open_namer(config.teacher, config.knowledge, run.train_set, device=run.here.device)
        outliner = None
        if config.stage == "merge":
            outliner = load_mask_teacher(config.masks_teacher, device=run.here.device)
        reader = merging.text_tower(config.teacher, run.spec) if config.stage == "probe" else before
        started = weights_sha256(before.student)
        sources = [namer.id, started, "" if outliner is None else outliner.weights_sha256]
        if not run.begin("sam-clip", resume=resume, knowledge="-".join(sources)):
            return run.student_folder
        built = run.build(reader.tokenizer)
        model, masks = built.student, built.student.masks
        if masks is None:
            raise ConfigError(f"student {run.spec.name} has no mask head", where="masks", hint="take nano-sam")
        model.load_state_dict(merging.joined(before, reader))
        taught = [*inherited_licences(namer.teachers), *(() if outliner is None else outliner.licences)]
        model.licences[:] = dict.fromkeys([*before.student.licences, *reader.student.licences, *taught])

        # What learns, and how fast: the CLIP head, and in stage `merge` all but the text at a tenth of its speed.
        _set_trained(model, config.stage)
        training = run.start(
            model, lambda name: 1.0 if name.startswith("image.projection.") else config.backbone_lr_ratio
        )
        stream = merging.batches(config, run, built, namer, outliner, training.step)

        # One step: the embedding follows the CLIP teacher's, the outlines follow the mask teacher's.
        def embed(batch: MergeBatch) -> tuple[Tensor, ...]:
            count = len(batch.images)
            # Both kinds of pictures pass at once: BatchNorm would forget one kind while it sees a few of the other.
            pictures = batch.images if outliner is None else torch.cat([batch.images, batch.scenes])
            with run.precision.autocast():
                seen = model.image.trunk(pictures)  # (b + m, 3, S, S) -> (b + m, C, h, w)
                image = embed_map(model, seen[:count])  # (b, C, h, w) -> (b, D)
            distance = 1 - (F.normalize(image.float(), dim=-1) * batch.teacher_image).sum(-1)  # (b,)
            if outliner is None:
                return (distance,)
            with run.precision.autocast():
                logits, quality = outline(masks, seen[count:], batch.points, batch.labels)  # (m K, 3, M, M), (m K, 3)
            found = follow_outlines(logits.float(), quality.float(), batch.teacher_masks, batch.teacher_quality)
            return distance, found["outline"], found["quality"], found["iou"]

        def loss(distance: Tensor, *outlines: Tensor) -> dict[str, Tensor]:
            terms = {"clip_loss": distance.mean()}
            if outlines:
                follow, quality, iou = (one.mean() for one in outlines)
                terms |= {
                    "masks_loss": config.masks_weight * follow,
                    "quality_loss": config.masks_weight * config.quality_weight * quality,
                    "agreement": iou,
                }
            return terms

        run.train(training, built, stream, embed, loss)
        return run.finish("sam-clip", training, built, provenance=merging.provenance(namer, outliner, started))


def _set_trained(model: Student, stage: str) -> None:
    """Training mode for what is trained; what is frozen computes as it will after training."""
    model.eval().requires_grad_(False)
    others = (model.image.trunk, model.masks) if stage == "merge" else ()
    for part in (model.image.projection, *others):
        if part is not None:
            part.train().requires_grad_(True)


def check(config: Config, dataset: DataSet) -> None:
    """See that the teachers and the student to start from are there and can be read.

    Raises:
        UsageError, ConfigError, CheckpointError, ArtifactError: what `run` would raise.
    """
    import torch

    from clip_edge.distill import merging
    from clip_edge.distill.mask_teacher import load_mask_teacher
    from clip_edge.distill.models.checkpoint import load_student

    _check_settings(config)
    cpu = torch.device("cpu")
    before = load_student(Path(config.start))
    merging.open_namer(config.teacher, config.knowledge, dataset, device=cpu)
    if config.stage == "probe":
        merging.text_tower(config.teacher, before.spec)
    if config.stage == "merge":
        load_mask_teacher(config.masks_teacher, device=cpu)


def _check_settings(config: Config) -> None:
    stage = config.stage
    if not config.start:
        wanted = {"probe": "recipe `segment`", "merge": "stage `probe`", "resolution": "stage `merge`"}[stage]
        raise ConfigError(f"`stage = {stage}` starts from a student", hint=f"--set start=RUN of the {wanted}")
    if not config.teacher and (stage == "probe" or not config.knowledge):
        raise ConfigError(f"`stage = {stage}` needs a CLIP teacher", hint="--set teacher=FOLDER of a student")
    if stage == "merge" and not config.masks_teacher:
        raise ConfigError(
            "`stage = merge` needs a mask teacher",
            hint="--set masks_teacher=RUN of the recipe `segment`, or hf:FOLDER of a SAM",
        )
