"""Recipe `lightclip`: three kinds of supervision for light towers (after Nie et al. 2023). docs/recipes/lightclip.md.

Imports of torch wait until `run`, so that `--dry-run` and `list` answer at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
    from clip_edge.distill.data.samples import DataSet
    from clip_edge.distill.models.checkpoint import LoadedStudent
    from clip_edge.distill.reinforce.batches import ReinforcedBatch, Stored
    from clip_edge.distill.run import Run


@dataclass(frozen=True)
class SoftenSettings:
    """Instance level: how much of a label goes to the negatives in the end, and to which of them."""

    alpha: float = 0.2
    temperature: float = 0.1
    weighting: Literal["similarity", "uniform", "intra_modal"] = "similarity"
    ramp: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"`alpha` must lie in 0..1, below 1; found {self.alpha}")
        if self.temperature <= 0:
            raise ValueError(f"`temperature` must be above 0; found {self.temperature}")


@dataclass(frozen=True)
class TokenSettings:
    """Token level: patches of a picture meet words of its caption. `weight = 0` switches it off."""

    weight: float = 0.5
    matching: Literal["relaxed", "sinkhorn", "hungarian"] = "relaxed"

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"`weight` must not be negative; found {self.weight}")


@dataclass(frozen=True)
class WordSettings:
    """Hidden words are guessed from the others and from the picture. `weight = 0` switches it off."""

    weight: float = 0.5
    ratio: float = 0.15
    layers: tuple[int, ...] = ()
    detach_image: bool = False

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"`weight` must not be negative; found {self.weight}")
        if not 0 < self.ratio < 1:
            raise ValueError(f"`ratio` must lie between 0 and 1; found {self.ratio}")
        if len(set(self.layers)) < len(self.layers):
            raise ValueError(f"`layers` names a block twice: {list(self.layers)}")


@dataclass(frozen=True)
class Config:
    """Every knob; lightclip.toml says what each one does."""

    seed: int = 0
    steps: int = 2000
    batch_size: int = 256
    chunk_size: int = 0
    langs: tuple[str, ...] = ()
    teacher: Literal["none", "reinforced"] = "none"
    knowledge: str = ""
    teacher_scales: tuple[float, ...] = ()
    distill_weight: float = 0.5
    captions: tuple[Literal["true", "synthetic"], ...] = ("true", "synthetic")
    allow_other_versions: bool = False
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = -1
    soften: SoftenSettings = field(default_factory=SoftenSettings)
    tokens: TokenSettings = field(default_factory=TokenSettings)
    words: WordSettings = field(default_factory=WordSettings)
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    keep: KeepSettings = field(default_factory=KeepSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    log: LogSettings = field(default_factory=LogSettings)

    def __post_init__(self) -> None:
        check_counts(self, workers=self.workers)
        if not 0 <= self.distill_weight <= 1:
            raise ValueError(f"`distill_weight` must lie in 0..1; found {self.distill_weight}")
        if not self.captions or len(set(self.captions)) < len(self.captions):
            raise ValueError(f"`captions` must name true, synthetic or both; found {list(self.captions)}")
        if (self.teacher == "reinforced") != bool(self.knowledge):
            raise ValueError(
                "`teacher = reinforced` and `knowledge` belong together; "
                f"found teacher = {self.teacher}, knowledge = {self.knowledge or 'nothing'}"
            )


def run(
    config: Config, *, data: Path, student: str | Path, out: Path, resume: bool = False, console: Console = SILENT
) -> Path:
    """Train `student` on `data` and return the student folder OUT/student.

    Raises:
        UsageError, ConfigError, DataError, ArtifactError: before anything is written.
        TrainingError: the loss is not finite, or the student does not learn.
    """
    import torch
    from torch.nn import functional as F

    from clip_edge.distill import batches, distributed, setup
    from clip_edge.distill.losses.reinforced import reinforced_loss
    from clip_edge.distill.losses.softened import ramp, softened_clip_loss
    from clip_edge.distill.models.fusion import LightStudent
    from clip_edge.distill.reinforce.batches import ReinforcedBatch
    from clip_edge.distill.reinforce.source import choose_scales, inherited_licences, taught_by
    from clip_edge.distill.run import open_run

    # What is there to train on, what is to be trained, and does somebody teach?
    with open_run(config, data=data, student=student, out=out, console=console) as run:
        source = _open_source(config, run.train_set, check_hashes=run.here.is_main)
        teachers = source.teachers if source else ()
        scales = choose_scales(config.teacher_scales, teachers)
        if not run.begin("lightclip", resume=resume, knowledge=source.id if source else ""):
            return run.student_folder

        # The student, and beside it what only training needs.
        built = run.build()
        built.student.licences.extend(inherited_licences(teachers))
        setup.set_trained(built.student, freeze_image=False)
        align, guess = config.tokens.weight > 0, config.words.weight > 0
        model = LightStudent(built.student, align=align, guess=guess, layers=config.words.layers).to(run.here.device)
        distributed.same_start(model)
        training = run.start(model)
        text = model.student.text

        # One step: each picture meets its captions; patches meet words, and hidden words are guessed, in the first one.
        def embed(batch: Batch | ReinforcedBatch) -> tuple[Tensor, ...]:
            captions = batch.tokens.view(len(batch.tokens), -1, batch.tokens.shape[-1])  # (b, [T,] L) -> (b, T, L)
            first = captions[:, 0]
            found: list[Tensor] = []
            with run.precision.autocast():
                features, maps = model.see(batch.images)
                image = model.student.project_image(features)  # (b, F) -> (b, D)
                if model.align is None:
                    texts = batches.encode_texts(model.student, captions.flatten(0, 1))  # (b T, L) -> (b T, D)
                else:
                    texts, words = batches.encode_texts_and_words(model.student, captions.flatten(0, 1))
                    of_first = words.view(*captions.shape[:2], *words.shape[1:])[:, 0]  # (b T, L, W) -> (b, L, W)
                    found += model.align(maps[-1], of_first, text.is_word(first), config.tokens.matching)
                if model.guess is not None:
                    seen = [one.detach() for one in maps] if config.words.detach_image else maps
                    found += model.guess(model.student, first, seen, config.words.ratio)
            units = F.normalize(texts.float(), dim=-1).view(*captions.shape[:2], -1)  # (b T, D) -> (b, T, D)
            taught = (batch.teacher_image, batch.teacher_texts) if isinstance(batch, ReinforcedBatch) else ()
            return F.normalize(image.float(), dim=-1), units, *found, *taught

        def loss(*embeddings: Tensor) -> dict[str, Tensor]:
            image, texts, *others = map(distributed.gather, embeddings)  # (b, ...) -> (B, ...)
            rows, scale = run.here.share(config.batch_size), model.student.logit_scale.exp()
            alpha = config.soften.alpha * ramp(training.step, config.steps, config.soften.ramp)
            own = 1.0 if source is None else 1 - config.distill_weight
            instance = [
                softened_clip_loss(image, texts[:, t], scale, alpha=alpha, settings=config.soften, rows=rows)
                for t in range(texts.shape[1])
            ]
            terms = {"instance_loss": own * torch.stack(instance).sum(), "alpha": image.new_tensor(alpha)}
            for name, weight, used in (("tokens", config.tokens.weight, align), ("words", config.words.weight, guess)):
                if used:
                    sums, counts = others.pop(0), others.pop(0)  # (B,), (B,)
                    share = sums[rows].sum() / counts.sum().clamp(min=1) * run.here.world_size
                    terms |= {f"{name}_loss": weight * share, name: share}
            if source is not None:
                taught = reinforced_loss(
                    image,
                    texts,
                    scale,
                    *others,
                    dims=[teacher.dim for teacher in teachers],
                    scales=scales,
                    distill_weight=1.0,
                    names=config.captions,
                    rows=rows,
                )
                terms |= taught | {"reinforced_loss": config.distill_weight * taught["reinforced_loss"]}
            return terms

        stream = _batches(config, run, built, source, training.step)
        run.train(training, built, stream, embed, loss, student_in=lambda model: model.student)
        return run.finish("lightclip", training, built, provenance=taught_by(source, scales) if source else None)


def check(config: Config, dataset: DataSet) -> None:
    """Open the stored knowledge that `config` names, hashes included, and see that it is about `dataset`.

    Raises:
        ConfigError, ArtifactError: what `run` would raise.
    """
    from clip_edge.distill.reinforce.source import choose_scales

    source = _open_source(config, dataset, check_hashes=True)
    choose_scales(config.teacher_scales, source.teachers if source else ())


def _open_source(config: Config, dataset: DataSet, *, check_hashes: bool) -> Stored | None:
    """What teachers know, when they are asked for."""
    from clip_edge.distill.reinforce.source import open_stored

    if config.teacher == "none":
        return None
    if config.augment != AugmentSpec():
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


def _batches(
    config: Config, run: Run, built: LoadedStudent, source: Stored | None, start_step: int
) -> Iterator[Batch] | Iterator[ReinforcedBatch]:
    """Pictures with one caption each, or with captions of each kind and what the teachers make of them."""
    from clip_edge.distill.batches import reader_count, tell_problems
    from clip_edge.distill.data.loader import make_batches
    from clip_edge.distill.reinforce.batches import make_reinforced_batches

    common: dict[str, Any] = {
        "spec": built.preprocess,
        "tokenizer": built.tokenizer,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "on_problem": tell_problems(run.console),
        "rank": run.here.rank,
        "world_size": run.here.world_size,
        "start_step": start_step,
        "langs": config.langs,
        "workers": reader_count(config.workers),
    }
    if source is None:
        return make_batches(run.train_set, augment=config.augment, **common)
    return make_reinforced_batches(run.train_set, source, kinds=config.captions, **common)
