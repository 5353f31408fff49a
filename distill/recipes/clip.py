"""Recipe `clip`: a picture and its caption meet, all others part (Radford et al. 2021). See docs/recipes/clip.md.

Imports of torch wait until `run`, so that `--dry-run` and `list` answer at once.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    from torch import Tensor

    from clip_edge.distill.data.loader import Batch
    from clip_edge.distill.features import FeatureBatch


@dataclass(frozen=True)
class Config:
    """Every knob; clip.toml says what each one does."""

    seed: int = 0
    steps: int = 2000
    batch_size: int = 256
    chunk_size: int = 0
    langs: tuple[str, ...] = ()
    loss: Literal["softmax", "sigmoid"] = "softmax"
    freeze_image: bool = False
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = -1
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    keep: KeepSettings = field(default_factory=KeepSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    log: LogSettings = field(default_factory=LogSettings)

    def __post_init__(self) -> None:
        check_counts(self, workers=self.workers)


def run(
    config: Config, *, data: Path, student: str | Path, out: Path, resume: bool = False, console: Console = SILENT
) -> Path:
    """Train `student` on `data` and return the student folder OUT/student.

    Raises:
        UsageError, ConfigError, DataError: before anything is written.
        TrainingError: the loss is not finite, or the student does not learn.
    """
    from torch.nn import functional as F

    from clip_edge.distill import batches, distributed, features, setup
    from clip_edge.distill.data.loader import make_batches
    from clip_edge.distill.losses import contrastive
    from clip_edge.distill.run import open_run

    # What is there to train on, and what is to be trained?
    with open_run(config, data=data, student=student, out=out, console=console) as run:
        here, train_set = run.here, run.train_set
        if config.loss == "sigmoid" and run.spec.logit_bias_init is None:
            raise ConfigError(f"`loss = sigmoid` needs a student with `logit_bias_init`; {run.spec.name} has none")
        if not run.begin("clip", resume=resume):
            return run.student_folder

        # The student, where it starts, and what of it is trained.
        built = run.build()
        model, tokenizer = built.student, built.tokenizer
        setup.set_trained(model, freeze_image=config.freeze_image)
        training = run.start(model)

        # Batches: pictures, or the features of a frozen trunk when nothing about a picture ever changes.
        on_features = config.freeze_image and config.augment == AugmentSpec()
        told = batches.tell_problems(run.console)
        stream: Iterator[Batch | FeatureBatch]
        if on_features:
            known = features.trunk_features(
                model, train_set, built.preprocess, out / "cache", here=here, on_problem=told, console=run.console
            )
            stream = features.feature_batches(
                known,
                train_set,
                tokenizer=tokenizer,
                batch_size=config.batch_size,
                seed=config.seed,
                here=here,
                start_step=training.step,
                langs=config.langs,
            )
        else:
            stream = make_batches(
                train_set,
                spec=built.preprocess,
                tokenizer=tokenizer,
                batch_size=config.batch_size,
                seed=config.seed,
                on_problem=told,
                rank=here.rank,
                world_size=here.world_size,
                start_step=training.step,
                augment=config.augment,
                langs=config.langs,
                workers=batches.reader_count(config.workers),
            )

        # One step: embed this process's pairs, compare them with everybody's.
        def embed(batch: Batch | FeatureBatch) -> tuple[Tensor, Tensor]:
            with run.precision.autocast():
                if isinstance(batch, features.FeatureBatch):
                    image = model.project_image(batch.features)  # (b, F) -> (b, D)
                else:
                    image = model.encode_image(batch.images)  # (b, 3, S, S) -> (b, D)
                text = batches.encode_texts(model, batch.tokens)  # (b, L) -> (b, D)
            return F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)  # again, in fp32

        objective = {"softmax": contrastive.clip_loss, "sigmoid": contrastive.sigmoid_loss}[config.loss]

        def loss(image: Tensor, text: Tensor) -> dict[str, Tensor]:
            pictures, sentences = distributed.gather(image), distributed.gather(text)  # (b, D) -> (B, D)
            scale, rows = model.logit_scale.exp(), here.share(config.batch_size)
            return objective(pictures, sentences, scale, model.logit_bias, rows=rows)

        run.train(training, built, stream, embed, loss)
        return run.finish("clip", training, built)
