"""The settings that recipes share. Plain data without torch: `--dry-run` and `list` read them in no time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol


def _positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"`{name}` must be above 0; found {value}")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"`{name}` must not be negative; found {value}")


def check_counts(settings: LoopSettings, *, workers: int) -> None:
    """Raise ValueError for a number of steps, pairs and so on with which nothing can be trained."""
    for name, value, least in (
        ("steps", settings.steps, 1),
        ("batch_size", settings.batch_size, 2),  # one pair has nothing to part from
        ("chunk_size", settings.chunk_size, 0),
        ("seed", settings.seed, 0),
        ("workers", workers, -1),
    ):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}; found {value}")


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW. `max_grad_norm = 0` means no clipping."""

    lr: float = 1e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        _positive(lr=self.lr, eps=self.eps)
        _not_negative(weight_decay=self.weight_decay, max_grad_norm=self.max_grad_norm)
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"`beta1` and `beta2` must lie in 0..1; found {self.beta1} and {self.beta2}")


@dataclass(frozen=True)
class ScheduleSettings:
    """Linear warm-up, then a cosine that ends at `final_lr_ratio` of the learning rate."""

    warmup_steps: int = 100
    final_lr_ratio: float = 0.0

    def __post_init__(self) -> None:
        _not_negative(warmup_steps=self.warmup_steps)
        if not 0 <= self.final_lr_ratio <= 1:
            raise ValueError(f"`final_lr_ratio` must lie in 0..1; found {self.final_lr_ratio}")


@dataclass(frozen=True)
class EvaluationSettings:
    """Retrieval on another split while training. `every_steps = 0`: only at the end; `limit = 0`: every picture."""

    every_steps: int = 500
    split: str = "val"
    limit: int = 1000
    stop_at_chance_after: int = 4  # evaluations without a sign of learning; 0 goes on for ever

    def __post_init__(self) -> None:
        _not_negative(every_steps=self.every_steps, limit=self.limit, stop_at_chance_after=self.stop_at_chance_after)


@dataclass(frozen=True)
class KeepSettings:
    """Which weights become the student: the average or the raw ones, of the last step or of the best evaluation."""

    weights: Literal["ema", "raw"] = "ema"
    choose: Literal["last", "best"] = "last"
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must lie in 0..1; found {self.ema_decay}")


@dataclass(frozen=True)
class LogSettings:
    """How often to write. None of this changes the weights, so a resumed run may change it."""

    every_steps: int = 10
    tensorboard: bool = True
    checkpoint_every_steps: int = 500
    checkpoint_every_s: float = 600.0

    def __post_init__(self) -> None:
        _positive(
            every_steps=self.every_steps,
            checkpoint_every_steps=self.checkpoint_every_steps,
            checkpoint_every_s=self.checkpoint_every_s,
        )


class LoopSettings(Protocol):
    """What `loop.train` reads of a recipe's configuration.

    `batch_size` counts all processes; `chunk_size = 0` takes the whole batch at once, anything else is gradient
    caching in pieces of so many samples.
    """

    @property
    def seed(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def chunk_size(self) -> int: ...
    @property
    def optimizer(self) -> OptimizerSettings: ...
    @property
    def schedule(self) -> ScheduleSettings: ...
    @property
    def keep(self) -> KeepSettings: ...
    @property
    def evaluation(self) -> EvaluationSettings: ...
    @property
    def log(self) -> LogSettings: ...
