"""Recipe `mobileclip`: multi-modal reinforced training (Vasu et al. 2024). See docs/recipes/mobileclip.md.

Imports of torch wait until `run`, so that `--dry-run` and `list` answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clip_edge.console import SILENT, Console
from clip_edge.distill.data.augment import AugmentSpec
from clip_edge.distill.data.samples import UNKNOWN_LANGUAGE
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
    from clip_edge.distill.models.spec import Licence
    from clip_edge.distill.reinforce.batches import ReinforcedBatch, Source
    from clip_edge.distill.teacher import TeacherInfo

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

    from clip_edge.distill import batches, distributed, loop, optim, precision, run_folder, setup, state
    from clip_edge.distill.data.readers import open_dataset
    from clip_edge.distill.losses.reinforced import reinforced_loss
    from clip_edge.distill.models.spec import load_spec
    from clip_edge.distill.reinforce.batches import make_reinforced_batches

    # What is there to train on, what is to be trained, and who teaches?
    spec = load_spec(student)
    preprocess = spec.image.preprocess()
    train_set = open_dataset(data, "train")
    setup.check_data(train_set, config.batch_size, config.langs)
    val_set = setup.open_validation(data, config.evaluation.split)
    with distributed.join(config.device) as here:
        talk = console if here.is_main else SILENT
        source = _open_source(config, train_set, here.device, check_hashes=here.is_main)
        scales, dims = _scales(config, source.teachers), [teacher.dim for teacher in source.teachers]
        if here.is_main:
            identity = run_folder.identify("mobileclip", spec, train_set, knowledge=source.id)
            run_folder.begin(out, config, identity, resume=resume, console=talk)
        distributed.barrier()
        if (out / "student").is_dir():
            talk.say(f"this run is complete: {out / 'student'}")
            return out / "student"

        # The student, and where it starts. What comes from research-only teachers is research-only.
        kind = precision.choose(config.precision, here.device)
        built = setup.build(spec, train_set, langs=config.langs, seed=config.seed, here=here, folder=out, console=talk)
        model, tokenizer = built.student, built.tokenizer
        model.licences.extend(_licences(source.teachers))
        setup.set_trained(model, freeze_image=False)
        training = state.TrainingState(
            model,
            optim.build_optimizer(model, config.optimizer),
            kind.scaler(),
            ema=optim.ema_copy(model) if config.keep.weights == "ema" else None,
        )
        if state.restore_newest(training, out, console=talk):
            talk.say(f"resumed after step {training.step}")

        # Batches: a picture in one of its augmentations, a caption of each kind, and what the teachers make of them.
        stream = make_reinforced_batches(
            train_set,
            source,
            kinds=config.captions,
            spec=preprocess,
            tokenizer=tokenizer,
            batch_size=config.batch_size,
            seed=config.seed,
            on_problem=batches.tell_problems(talk),
            rank=here.rank,
            world_size=here.world_size,
            start_step=training.step,
            langs=config.langs,
            workers=batches.reader_count(config.workers),
        )

        # One step: each picture is embedded once and meets its captions; teachers' embeddings only pass through.
        def embed(batch: ReinforcedBatch) -> tuple[Tensor, ...]:
            with kind.autocast():
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

        loop.train(
            training,
            batches.on_device(stream, here.device, spec.text, tokenizer.spec.eos_id),
            embed,
            loss,
            config,
            run=out,
            here=here,
            evaluate=setup.validate(built, val_set, config.langs, config.evaluation.limit),
            console=talk,
        )
        if here.is_main:
            setup.save(
                training,
                built,
                config.keep,
                out,
                recipe="mobileclip",
                config=config,
                data=train_set,
                examples=val_set,
                provenance=_taught_by(source, scales),
            )
        distributed.barrier()
    return out / "student"


def _open_source(config: Config, dataset: DataSet, device: torch.device, *, check_hashes: bool) -> Source:
    """Stored knowledge, or teachers that are asked at every step."""
    from clip_edge.distill.reinforce.batches import Stored
    from clip_edge.distill.reinforce.online import Online
    from clip_edge.distill.reinforce.reader import open_reinforced
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
    knowledge = open_reinforced(
        dataset,
        Path(config.knowledge),
        check_hashes=check_hashes,
        allow_other_versions=config.allow_other_versions,
    )
    job = knowledge.manifest.job
    if "synthetic" in config.captions and not job.captions:
        raise ConfigError(
            "`captions` asks for synthetic ones, and the stored knowledge has none",
            where=knowledge.folder,
            hint="train on the true ones, --set 'captions=[\"true\"]', or make knowledge with --captions 2",
        )
    unknown = [lang for lang in config.langs if lang not in job.languages]
    if unknown and UNKNOWN_LANGUAGE not in job.languages:
        raise ConfigError(
            f"`langs` asks for {', '.join(unknown)}; the stored knowledge is about {', '.join(job.languages)}",
            where=knowledge.folder,
            hint="choose among these, or make knowledge with --langs",
        )
    return Stored(knowledge)


def _scales(config: Config, teachers: tuple[TeacherInfo, ...]) -> tuple[float, ...]:
    """The teachers' logit scales: those of the configuration, or else their own."""
    if not config.teacher_scales:
        return tuple(teacher.logit_scale for teacher in teachers)
    if len(config.teacher_scales) != len(teachers):
        raise ConfigError(
            f"`teacher_scales` has {len(config.teacher_scales)} values for {len(teachers)} teachers: "
            + ", ".join(teacher.name for teacher in teachers),
            hint="give one for each, in this order, or none to take the teachers' own",
        )
    return config.teacher_scales


def _licences(teachers: tuple[TeacherInfo, ...]) -> list[Licence]:
    """What the student inherits from the weights that taught it."""
    from clip_edge.distill.models.spec import Licence

    return [
        Licence(f"distilled from {teacher.name}", teacher.licence or "unknown", teacher.research_only)
        for teacher in teachers
        if teacher.licence or teacher.research_only
    ]


def _taught_by(source: Source, scales: tuple[float, ...]) -> dict[str, object]:
    """Who taught, for model.json."""
    teachers = [
        {"name": teacher.name, "weights_sha256": teacher.weights_sha256, "scale": scale}
        for teacher, scale in zip(source.teachers, scales, strict=True)
    ]
    return {"teachers": teachers, "knowledge_sha256": source.id}
