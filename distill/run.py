"""One training run of any recipe: what is read, where it is written, and what happens before and after the steps.

A recipe reads: open the run, begin it, build the student, make batches, say how they are embedded and what the loss
is, train, finish. Everything that is the same for all of them is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from clip_edge.console import SILENT, Console
from clip_edge.distill import distributed, loop, optim, precision, run_folder, setup, state, validation
from clip_edge.distill.batches import on_device
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.samples import DataSet, warn_of_problems
from clip_edge.distill.distributed import Processes
from clip_edge.distill.gradcache import Embed, LossFn
from clip_edge.distill.models.checkpoint import LoadedStudent
from clip_edge.distill.models.spec import StudentSpec, load_spec
from clip_edge.distill.models.student import Student
from clip_edge.distill.precision import Precision
from clip_edge.distill.settings import LoopSettings
from clip_edge.distill.state import TrainingState
from clip_edge.distill.validation import Check
from clip_edge.tokenizer import Tokenizer


class Settings(LoopSettings, Protocol):
    """What a run reads of a recipe's configuration, beside what its loop reads."""

    @property
    def langs(self) -> tuple[str, ...]: ...
    @property
    def precision(self) -> str: ...


@dataclass(frozen=True)
class Run:
    """What a recipe works with. `console` is silent in all processes but the first."""

    config: Settings
    spec: StudentSpec
    train_set: DataSet
    val_set: DataSet | None
    folder: Path
    here: Processes
    precision: Precision
    console: Console

    @property
    def student_folder(self) -> Path:
        """Where the student appears at the end."""
        return self.folder / "student"

    def begin(self, recipe: str, *, resume: bool, knowledge: str = "") -> bool:
        """Make the run folder, or make sure that it may be continued; False when the student is there already.

        Raises:
            UsageError, ConfigError, CheckpointError: as `run_folder.begin`.
        """
        if self.here.is_main:
            identity = run_folder.identify(recipe, self.spec, self.train_set, knowledge=knowledge)
            run_folder.begin(self.folder, self.config, identity, resume=resume, console=self.console)
        distributed.barrier()
        if not self.student_folder.is_dir():
            return True
        self.console.say(f"this run is complete: {self.student_folder}")
        return False

    def build(self, tokenizer: Tokenizer | None = None) -> LoadedStudent:
        """The student at its beginning; without a `tokenizer` it gets its own."""
        return setup.build(
            self.spec,
            tokenizer or setup.make_tokenizer(self.spec, self.train_set, self.config.langs, self.console),
            seed=self.config.seed,
            here=self.here,
            folder=self.folder,
        )

    def start(self, model: nn.Module, lr_ratio: Callable[[str], float] = lambda name: 1.0) -> TrainingState:
        """Optimiser, loss scaling and average of `model`, as the newest checkpoint has them when there is one.

        `lr_ratio` as in `optim.build_optimizer`.
        """
        training = TrainingState(
            model,
            optim.build_optimizer(model, self.config.optimizer, lr_ratio),
            self.precision.scaler(),
            ema=optim.ema_copy(model) if self.config.keep.weights == "ema" else None,
        )
        if state.restore_newest(training, self.folder, console=self.console):
            self.console.say(f"resumed after step {training.step}")
        return training

    def train(
        self,
        training: TrainingState,
        built: LoadedStudent,
        stream: Iterator[Any],
        embed: Embed[Any],
        loss: LossFn,
        *,
        student_in: Callable[[Any], Student] = lambda model: model,
        check: Check = validation.retrieval_check,
    ) -> None:
        """All steps that are left: `stream` gives what `embed` takes (see `loop.train`).

        `student_in` finds the student in a model that holds more for training; `check` says what is measured.
        """
        validate = setup.validate(built, self.val_set, self.config.langs, self.config.evaluation.limit, check)
        loop.train(
            training,
            on_device(stream, self.here.device, built.student),
            embed,
            loss,
            self.config,
            run=self.folder,
            here=self.here,
            evaluate=None if validate is None else lambda model: validate(student_in(model)),
            console=self.console,
        )

    def finish(
        self, recipe: str, training: TrainingState, built: LoadedStudent, provenance: Mapping[str, Any] | None = None
    ) -> Path:
        """Write the student; returns its folder. `provenance` adds to model.json."""
        if self.here.is_main:
            setup.save(
                training,
                built,
                self.config.keep,
                self.folder,
                recipe=recipe,
                config=self.config,
                data=self.train_set,
                examples=self.val_set,
                provenance=provenance,
            )
        distributed.barrier()
        return self.student_folder


@contextmanager
def open_run(config: Any, *, data: Path, student: str | Path, out: Path, console: Console = SILENT) -> Iterator[Run]:
    """Everything that a recipe needs to know before it begins; nothing is written yet.

    Raises:
        UsageError, ConfigError, DataError: the student, the data or the device are not there, or do not fit.
    """
    spec = load_spec(student)
    train_set = open_dataset(data, "train")
    setup.check_data(train_set, config.batch_size, config.langs)
    val_set = setup.open_validation(data, config.evaluation.split)
    with distributed.join(config.device) as here:
        kind = precision.choose(config.precision, here.device)
        if here.is_main:
            warn_of_problems(train_set, console)
        yield Run(config, spec, train_set, val_set, out, here, kind, console if here.is_main else SILENT)
