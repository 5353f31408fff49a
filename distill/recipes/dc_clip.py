"""Recipe `dc-clip`: one small student for several languages, in two stages (after DC-CLIP). docs/recipes/dc-clip.md.

Imports of torch wait until `run`, so that `--dry-run` and `list` answer at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

    from clip_edge.distill.data.languages import BalancedBatch
    from clip_edge.distill.data.loader import Batch
    from clip_edge.distill.data.samples import DataSet
    from clip_edge.distill.data.sentences import Sentences
    from clip_edge.distill.models.adapted import AdaptedStudent
    from clip_edge.distill.models.checkpoint import LoadedStudent
    from clip_edge.distill.run import Run
    from clip_edge.distill.taught import TaughtBatch
    from clip_edge.distill.teacher import Teacher

READS_MODELS = True  # so `--dry-run` calls `check`

# Terms of stage 1, in the log; those of a tower that is left alone, and of what cannot be compared, are not there.
TERMS = ("image_embedding_loss", "image_map_loss", "text_embedding_loss", "text_words_loss")


@dataclass(frozen=True)
class FeatureSettings:
    """Stage 1 for one tower: weights of its inner features and of its embedding. Both 0: the tower is left alone."""

    inner: float = 1.0
    embedding: float = 1.0
    standardise: bool = True

    def __post_init__(self) -> None:
        if min(self.inner, self.embedding) < 0:
            raise ValueError(f"`inner` and `embedding` must not be negative; found {self.inner}, {self.embedding}")

    @property
    def used(self) -> bool:
        return self.inner + self.embedding > 0


@dataclass(frozen=True)
class Config:
    """Every knob; dc-clip.toml says what each one does."""

    stage: Literal["features", "alignment"] = "features"
    teacher: str = ""
    start: str = ""
    seed: int = 0
    steps: int = 2000
    batch_size: int = 256
    chunk_size: int = 0
    langs: tuple[str, ...] = ()
    text_corpora: tuple[str, ...] = ()
    tower_lr_ratio: float = 0.1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = -1
    image: FeatureSettings = field(default_factory=FeatureSettings)
    text: FeatureSettings = field(default_factory=FeatureSettings)
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    keep: KeepSettings = field(default_factory=KeepSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    log: LogSettings = field(default_factory=LogSettings)

    def __post_init__(self) -> None:
        check_counts(self, workers=self.workers)
        if not 0 < self.tower_lr_ratio <= 1:
            raise ValueError(f"`tower_lr_ratio` must lie in 0..1, above 0; found {self.tower_lr_ratio}")
        if self.stage == "alignment" and self.teacher:
            raise ValueError("`stage = alignment` has no teacher: leave `teacher` away")
        if self.text_corpora and not (self.stage == "features" and self.text.used):
            raise ValueError("`text_corpora` is for the text tower in `stage = features`: leave it away")
        if self.stage == "features" and not (self.image.used or self.text.used):
            raise ValueError("all weights of [image] and [text] are 0: nothing would be trained")
        one_alone = self.stage == "features" and not (self.image.used and self.text.used) and not self.start
        if one_alone and self.evaluation.split and self.evaluation.stop_at_chance_after:
            raise ValueError(
                "one tower alone retrieves nothing, so `evaluation.stop_at_chance_after` must be 0; "
                f"found {self.evaluation.stop_at_chance_after}"
            )


def run(
    config: Config, *, data: Path, student: str | Path, out: Path, resume: bool = False, console: Console = SILENT
) -> Path:
    """Take one stage with `student` on `data`; returns the student folder OUT/student.

    Raises:
        UsageError, ConfigError, DataError, CheckpointError: before anything is written.
        TrainingError: the loss is not finite, or the student does not learn.
    """
    from clip_edge.distill.run import open_run

    with open_run(config, data=data, student=student, out=out, console=console) as run:
        _check_settings(config)
        _check_start(config, run)
        return (_learn_features if config.stage == "features" else _align)(config, run, resume)


def _learn_features(config: Config, run: Run, resume: bool) -> Path:
    """Stage 1: each tower learns what its teacher's tower computes; the towers never meet."""
    from clip_edge.distill import distributed, setup
    from clip_edge.distill.models.adapted import AdaptedStudent
    from clip_edge.distill.reinforce.source import inherited_licences
    from clip_edge.distill.taught import Wanted, ask, inner_sizes
    from clip_edge.distill.teacher import load_teacher

    # Who teaches, who learns, and from what?
    teacher, corpora = load_teacher(config.teacher, device=run.here.device), _corpora(config)
    built = _begin_student(config, run)
    knowledge = "-".join([teacher.info.weights_sha256, *(corpus.sha256 for corpus in corpora)])
    if not run.begin("dc-clip", resume=resume, knowledge=knowledge):
        return run.student_folder
    built.student.licences.extend(inherited_licences((teacher.info,)))
    channels, width = inner_sizes(teacher, built)
    model = AdaptedStudent(
        built.student,
        map_channels=channels if config.image.inner else 0,
        word_width=width if config.text.inner else 0,
        dim=teacher.info.dim,
    ).to(run.here.device)
    setup.set_trained(built.student, freeze_image=False)
    built.student.requires_grad_(False)  # the scale between the towers is none of their business
    for tower, settings in ((built.student.image, config.image), (built.student.text, config.text)):
        tower.train(settings.used).requires_grad_(settings.used)
    distributed.same_start(model)
    training = run.start(model)
    _tell_missing(config, run, model)

    # One step: the distance of either tower from its teacher, per sample.
    wanted = Wanted(config.image.used, model.maps is not None, config.text.used, model.words is not None)
    asked = (wanted.image, wanted.level, wanted.text, wanted.words)
    names = [name for name, used in zip(TERMS, asked, strict=True) if used]

    def embed(batch: TaughtBatch) -> tuple[Tensor, ...]:
        return tuple(_distances(config, run, model, batch))  # (b,) each

    def loss(*found: Tensor) -> dict[str, Tensor]:
        return {name: one.mean() for name, one in zip(names, found, strict=True)}  # equally many in every process

    stream = ask(teacher, _batches(config, run, built, training.step, teacher, corpora), wanted)
    run.train(training, built, stream, embed, loss, student_in=lambda model: model.student)
    return run.finish("dc-clip", training, built, provenance=_provenance(config, teacher, corpora))


def _distances(config: Config, run: Run, model: AdaptedStudent, batch: TaughtBatch) -> Iterator[Tensor]:
    """The terms of stage 1 that there are, in the order of `TERMS`. A tower that is left alone computes nothing."""
    from clip_edge.distill.losses.features import embedding_loss, map_loss, token_loss

    with run.precision.autocast():
        image, level = model.see(batch.images) if config.image.used else (None, None)
        text, words = model.read(batch.tokens) if config.text.used else (None, None)
    if image is not None:
        yield config.image.embedding * embedding_loss(image.float(), batch.teacher_image)
    if level is not None:
        distance = map_loss(level.float(), batch.teacher_map, standardise=config.image.standardise)
        yield config.image.inner * distance
    if text is not None:
        yield config.text.embedding * embedding_loss(text.float(), batch.teacher_text)
    if words is not None:
        known = batch.teacher_words[:, : words.shape[1]]  # padding that no row reaches is cut off
        reached = model.student.text.until_eos(batch.tokens)
        distance = token_loss(words.float(), known, reached, standardise=config.text.standardise)
        yield config.text.inner * distance


def _tell_missing(config: Config, run: Run, model: AdaptedStudent) -> None:
    """Say which inner features were asked for and cannot be compared."""
    if config.image.inner and model.maps is None:
        run.console.say("teacher or student shows no feature maps: the image tower learns from embeddings alone")
    if config.text.inner and model.words is None:
        run.console.say("the teacher cuts sentences otherwise: the text tower learns from embeddings alone")


def _align(config: Config, run: Run, resume: bool) -> Path:
    """Stage 2: pictures and sentences of all languages meet; the towers move slowly, their projections do not."""
    from torch.nn import functional as F

    from clip_edge.distill import batches, distributed, setup
    from clip_edge.distill.data.loader import Batch
    from clip_edge.distill.losses.contrastive import clip_loss
    from clip_edge.distill.teacher import weights_sha256

    built = _begin_student(config, run)
    model = built.student
    started = weights_sha256(model)
    if not run.begin("dc-clip", resume=resume, knowledge=started):
        return run.student_folder
    setup.set_trained(model, freeze_image=False)
    quick = ("image.projection.", "text.projection.", "logit_scale")
    training = run.start(model, lambda name: 1.0 if name.startswith(quick) else config.tower_lr_ratio)

    def embed(batch: Batch) -> tuple[Tensor, Tensor]:
        with run.precision.autocast():
            image = model.encode_image(batch.images)  # (b, 3, S, S) -> (b, D)
            text = batches.encode_texts(model, batch.tokens)  # (b, L) -> (b, D)
        return F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)  # again, in fp32

    def loss(image: Tensor, text: Tensor) -> dict[str, Tensor]:
        pictures, sentences = distributed.gather(image), distributed.gather(text)  # (b, D) -> (B, D)
        return clip_loss(pictures, sentences, model.logit_scale.exp(), rows=run.here.share(config.batch_size))

    drawn = _batches(config, run, built, training.step)
    stream = (Batch(one.images, one.tokens, one.indices) for one in drawn)
    run.train(training, built, stream, embed, loss)
    return run.finish("dc-clip", training, built, provenance={"start_sha256": started})


def check(config: Config, dataset: DataSet) -> None:
    """See that the teacher or the student to start from is there and can be read, and that the languages are.

    Raises:
        UsageError, ConfigError, CheckpointError: what `run` would raise.
    """
    from clip_edge.distill.data.loader import check_langs
    from clip_edge.distill.models.checkpoint import load_student
    from clip_edge.distill.teacher import load_teacher

    _check_settings(config)
    check_langs(dataset, config.langs)
    _corpora(config)
    if config.stage == "features":
        load_teacher(config.teacher, device="cpu")
    if config.start:
        load_student(Path(config.start))


def _check_settings(config: Config) -> None:
    if config.stage == "features" and not config.teacher:
        raise ConfigError("`stage = features` needs a teacher", hint="--set teacher=FOLDER, or hf: and open_clip names")
    if config.stage == "alignment" and not config.start:
        raise ConfigError("`stage = alignment` starts from a student", hint="--set start=RUN of the stage `features`")


def _check_start(config: Config, run: Run) -> None:
    from clip_edge.distill.models.checkpoint import load_student
    from clip_edge.distill.models.spec import same_student

    if config.start and not same_student(load_student(Path(config.start)).spec, run.spec):
        raise ConfigError(f"`start` is another student than {run.spec.name}", where=config.start)


def _begin_student(config: Config, run: Run) -> LoadedStudent:
    """The student at its beginning, with the weights of the stage before where `start` names one."""
    from clip_edge.distill.models.checkpoint import load_student

    built = run.build()
    if not config.start:
        return built
    before = load_student(Path(config.start))
    if before.tokenizer.json_bytes != built.tokenizer.json_bytes:
        raise ConfigError(
            "`start` has another tokenizer than these captions give", where=config.start, hint="same data, same langs"
        )
    built.student.load_state_dict(before.student.state_dict())
    built.student.licences[:] = before.student.licences
    return built


def _corpora(config: Config) -> list[Sentences]:
    """The files of sentences that join the text tower's lessons."""
    from clip_edge.distill.data.sentences import read_sentences

    return [read_sentences(Path(path)) for path in config.text_corpora]


def _batches(
    config: Config,
    run: Run,
    built: LoadedStudent,
    start_step: int,
    teacher: Teacher | None = None,
    corpora: Sequence[Sentences] = (),
) -> Iterator[BalancedBatch]:
    """Languages and files of sentences in equal shares; with what the teacher sees, when there is one."""
    from clip_edge.distill.batches import reader_count, tell_problems
    from clip_edge.distill.data.languages import balanced_batches

    return balanced_batches(
        run.train_set,
        spec=built.preprocess,
        view=None if teacher is None else teacher.info.preprocess,
        tokenizer=built.tokenizer,
        augment=config.augment,
        langs=config.langs,
        batch_size=config.batch_size,
        seed=config.seed,
        on_problem=tell_problems(run.console),
        rank=run.here.rank,
        world_size=run.here.world_size,
        start_step=start_step,
        workers=reader_count(config.workers),
        corpora=corpora,
    )


def _provenance(config: Config, teacher: Teacher, corpora: Sequence[Sentences]) -> dict[str, object]:
    info = teacher.info
    texts = [{"name": corpus.name, "sentences": len(corpus), "sha256": corpus.sha256} for corpus in corpora]
    teachers = [{"source": config.teacher, "name": info.name, "weights_sha256": info.weights_sha256}]
    return {"teachers": teachers} | ({"text_corpora": texts} if texts else {})
