"""Recipe `segment`: a student learns to outline what a point or a box asks for, as SAM does. docs/recipes/segment.md.

It makes the mask teacher of the recipe `sam-clip` from nothing but pictures with masks. Imports of torch wait until
`run`, so that `--dry-run` and `list` answer at once.
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

    from clip_edge.distill.data.prompts import PromptBatch


@dataclass(frozen=True)
class Config:
    """Every knob; segment.toml says what each one does."""

    seed: int = 0
    steps: int = 2000
    batch_size: int = 32
    chunk_size: int = 0
    quality_weight: float = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = -1
    langs: tuple[str, ...] = ()
    prompts: PromptSpec = field(default_factory=PromptSpec)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    keep: KeepSettings = field(default_factory=KeepSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    log: LogSettings = field(default_factory=LogSettings)

    def __post_init__(self) -> None:
        check_counts(self, workers=self.workers)
        if self.quality_weight < 0:
            raise ValueError(f"`quality_weight` must not be negative; found {self.quality_weight}")


def run(
    config: Config, *, data: Path, student: str | Path, out: Path, resume: bool = False, console: Console = SILENT
) -> Path:
    """Train the backbone and the mask head of `student` on the masks in `data`; returns the folder OUT/student.

    Raises:
        UsageError, ConfigError, DataError: before anything is written.
        TrainingError: the loss is not finite, or the student does not learn.
    """
    from clip_edge.distill import batches
    from clip_edge.distill.data.prompts import prompt_batches
    from clip_edge.distill.losses.masks import learn_outlines
    from clip_edge.distill.mask_teacher import outline
    from clip_edge.distill.models.masks import mask_side
    from clip_edge.distill.run import open_run
    from clip_edge.distill.validation import outline_check

    with open_run(config, data=data, student=student, out=out, console=console) as run:
        # Is there a head that outlines? Names and sentences play no part: those parts keep their random weights.
        if run.spec.masks is None:
            raise ConfigError(
                f"student {run.spec.name} has no mask head",
                where="masks",
                hint="take nano-sam, or give your own `image.head` and `masks`: docs/students.md",
            )
        if not run.begin("segment", resume=resume):
            return run.student_folder
        built = run.build()
        model = built.student
        masks = model.masks
        assert masks is not None  # the specification has them
        model.train()
        for idle in (model.text, model.image.projection):
            idle.requires_grad_(False)
        model.logit_scale.requires_grad_(False)
        training = run.start(model)

        # Pictures, prompts about what they show, and the outlines that answer them.
        stream = prompt_batches(
            run.train_set,
            spec=built.preprocess,
            view=None,
            prompts=config.prompts,
            side=mask_side(model.image.trunk),
            batch_size=config.batch_size,
            seed=config.seed,
            on_problem=batches.tell_problems(run.console),
            rank=run.here.rank,
            world_size=run.here.world_size,
            start_step=training.step,
            workers=batches.reader_count(config.workers),
        )

        # One step: three answers to every prompt; the best one is corrected.
        def embed(batch: PromptBatch) -> tuple[Tensor, ...]:
            with run.precision.autocast():
                seen = model.image.trunk(batch.images)  # (b, 3, S, S) -> (b, C, h, w)
                logits, quality = outline(masks, seen, batch.points, batch.labels)  # (b K, 3, M, M), (b K, 3)
            found = learn_outlines(logits.float(), quality.float(), batch.masks.flatten(0, 1))
            # (b K,) -> (b,): pieces of a batch have one row for each picture
            return tuple(found[name].reshape(len(seen), -1).mean(1) for name in ("outline", "quality", "iou"))

        def loss(outlines: Tensor, quality: Tensor, iou: Tensor) -> dict[str, Tensor]:
            return {
                "outline_loss": outlines.mean(),
                "quality_loss": config.quality_weight * quality.mean(),
                "iou": iou.mean(),
            }

        run.train(training, built, stream, embed, loss, check=outline_check)
        return run.finish("segment", training, built)
