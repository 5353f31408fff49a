"""Recipe `mobileclip`: multi-modal reinforced training (Vasu et al. 2024). See docs/recipes/mobileclip.md.

Imports of torch wait until `run`, so that `--dry-run` and `list` answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clip_edge.console import SILENT, Console
from clip_edge.distill.data.augment import AugmentSpec
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
    import torch
    from torch import Tensor

    from clip_edge.distill.data.samples import DataSet
    from clip_edge.distill.reinforce.batches import ReinforcedBatch, Source

STRONG = AugmentSpec(crop_scale=(0.08, 1.0), randaugment_ops=2)  # what `clip-edge reinforce` draws, too
WANTED = "make knowledge with `clip-edge reinforce DATA --teacher SPEC --out DIR` and give --set knowledge=DIR"


@dataclass(frozen=True)
class Config:
    """Every knob; mobileclip.toml says what each one does."""

    knowledge: str = ""
    teachers: tuple[str, ...] = ()
    teacher_scales: tuple[float, ...] = ()
    distill_weight: float = 1.0
    captions: tuple[Literal["true", "synthetic"], ...] = ("true", "synthetic")
    captioner: str = "rewrite"
    allow_other_versions: bool = False
    seed: int = 0
    steps: int = 2000
    batch_size: int = 256
    chunk_size: int = 0
    langs: tuple[str, ...] = ()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = -1
    augment: AugmentSpec = STRONG
    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(weight_decay=0.2, beta2=0.95))
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    keep: KeepSettings = field(default_factory=lambda: KeepSettings(ema_decay=0.9995))
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    log: LogSettings = field(default_factory=LogSettings)

    def __post_init__(self) -> None:
        check_counts(self, workers=self.workers)
        if not 0 <= self.distill_weight <= 1:
            raise ValueError(f"`distill_weight` must lie in 0..1; found {self.distill_weight}")
        if not self.captions or len(set(self.captions)) < len(self.captions):
            raise ValueError(f"`captions` must name true, synthetic or both; found {list(self.captions)}")
        if any(scale <= 0 for scale in self.teacher_scales):
            raise ValueError(f"`teacher_scales` must be above 0; found {list(self.teacher_scales)}")


def run(
    config: Config, *, data: Path, student: str | Path, out: Path, resume: bool = False, console: Console = SILENT
) -> Path:
    """Train `student` on `data` with what teachers know about it, and return the student folder OUT/student.

    Raises:
        UsageError, ConfigError, DataError, ArtifactError: before anything is written.
        ArtifactError: a picture or caption is not the one that was described.
        TrainingError: the loss is not finite, or the student does not learn.
    """
    from torch.nn import functional as F

    from clip_edge.distill import batches, distributed, setup
    from clip_edge.distill.losses.reinforced import reinforced_loss
    from clip_edge.distill.reinforce.batches import make_reinforced_batches
    from clip_edge.distill.reinforce.source import choose_scales, inherited_licences, taught_by
    from clip_edge.distill.run import open_run

    # What is there to train on, what is to be trained, and who teaches?
    with open_run(config, data=data, student=student, out=out, console=console) as run:
        here = run.here
        source = _open_source(config, run.train_set, here.device, check_hashes=here.is_main)
        scales = choose_scales(config.teacher_scales, source.teachers)
        dims = [teacher.dim for teacher in source.teachers]
        if not run.begin("mobileclip", resume=resume, knowledge=source.id):
            return run.student_folder

        # The student, and where it starts. What comes from research-only teachers is research-only.
        built = run.build()
        model = built.student
        model.licences.extend(inherited_licences(source.teachers))
        setup.set_trained(model, freeze_image=False)
        training = run.start(model)

        # Batches: a picture in one of its augmentations, a caption of each kind, and what the teachers make of them.
        stream = make_reinforced_batches(
            run.train_set,
            source,
            kinds=config.captions,
            spec=built.preprocess,
            tokenizer=built.tokenizer,
            batch_size=config.batch_size,
            seed=config.seed,
            on_problem=batches.tell_problems(run.console),
            rank=here.rank,
            world_size=here.world_size,
            start_step=training.step,
            langs=config.langs,
            workers=batches.reader_count(config.workers),
        )

        # One step: each picture is embedded once and meets its captions; teachers' embeddings only pass through.
        def embed(batch: ReinforcedBatch) -> tuple[Tensor, ...]:
            with run.precision.autocast():
                image = model.encode_image(batch.images)  # (b, 3, S, S) -> (b, D)
                text = batches.encode_texts(model, batch.tokens.flatten(0, 1))  # (b, T, L) -> (b T, D)
            texts = text.float().view(*batch.tokens.shape[:2], -1)  # (b T, D) -> (b, T, D)
            unit_image, unit_texts = F.normalize(image.float(), dim=-1), F.normalize(texts, dim=-1)  # again, in fp32
            return unit_image, unit_texts, batch.teacher_image, batch.teacher_texts

        def loss(*embeddings: Tensor) -> dict[str, Tensor]:
            image, texts, teacher_image, teacher_texts = map(distributed.gather, embeddings)  # (b, ...) -> (B, ...)
            return reinforced_loss(
                image,
                texts,
                model.logit_scale.exp(),
                teacher_image,
                teacher_texts,
                dims=dims,
                scales=scales,
                distill_weight=config.distill_weight,
                names=config.captions,
                rows=here.share(config.batch_size),
            )

        run.train(training, built, stream, embed, loss)
        return run.finish("mobileclip", training, built, provenance=taught_by(source, scales))


def check(config: Config, dataset: DataSet) -> None:
    """Open the stored knowledge that `config` names, hashes included, and see that it is about `dataset`.

    Raises:
        ConfigError, ArtifactError: what `run` would raise.
    """
    import torch

    from clip_edge.distill.reinforce.source import choose_scales

    source = _open_source(config, dataset, torch.device("cpu"), check_hashes=True)
    choose_scales(config.teacher_scales, source.teachers)


def _open_source(config: Config, dataset: DataSet, device: torch.device, *, check_hashes: bool) -> Source:
    """Stored knowledge, or teachers that are asked at every step."""
    from clip_edge.distill.reinforce.online import Online
    from clip_edge.distill.reinforce.source import open_stored
    from clip_edge.distill.teacher import load_teacher

    if config.knowledge and config.teachers:
        raise ConfigError(
            "`knowledge` and `teachers` are both set: stored knowledge has its own teachers",
            hint="leave one of them empty",
        )
    if config.teachers:
        teachers = [load_teacher(spec, device=device) for spec in config.teachers]
        return Online(
            teachers,
            augment=config.augment,
            captioner=config.captioner,
            at_once=config.chunk_size or config.batch_size,
        )
    if not config.knowledge:
        raise ConfigError(
            "nobody teaches: `knowledge` and `teachers` are both empty",
            hint=f"{WANTED}; or name teachers with --set 'teachers=[\"SPEC\"]'",
        )
    if config.augment != STRONG:
        raise ConfigError(
            "`augment` is set, but stored knowledge brings its own augmentations",
            hint="leave the table [augment] away, or make knowledge with other augmentations",
        )
    return open_stored(
        dataset,
        Path(config.knowledge),
        kinds=config.captions,
        langs=config.langs,
        check_hashes=check_hashes,
        allow_other_versions=config.allow_other_versions,
    )
