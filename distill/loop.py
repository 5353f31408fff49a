"""The training loop that recipes share: batches in, a trained state and a log out."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch
from torch import Tensor, nn

from clip_edge.console import SILENT, Console, Meter
from clip_edge.distill import distributed, gradcache, metrics, optim
from clip_edge.distill.distributed import Processes
from clip_edge.distill.gradcache import Embed, LossFn
from clip_edge.distill.settings import LoopSettings
from clip_edge.distill.state import Best, TrainingState, save_state, saved_states
from clip_edge.errors import TrainingError

B = TypeVar("B")


@dataclass(frozen=True)
class Evaluation:
    """How good the weights are now."""

    figures: dict[str, float]  # what the log shows
    note: str  # the same for people, in a few words
    score: float  # what "best" means; higher is better
    at_chance: bool  # no better than guessing


def train(
    state: TrainingState,
    batches: Iterator[B],
    embed: Embed[B],
    loss_fn: LossFn,
    settings: LoopSettings,
    *,
    run: Path,
    here: Processes,
    evaluate: Callable[[nn.Module], Evaluation] | None,
    console: Console = SILENT,
) -> None:
    """Take the steps from `state.step + 1` to `settings.steps`: step, look at the figures, evaluate, log, save.

    Args:
        batches: this process's part of every global batch, beginning with that of step `state.step + 1`.
        embed: a batch or a chunk of it -> embeddings in fp32 (b, D); runs the model.
        loss_fn: those embeddings -> named terms of this process's share of the loss (see `distributed.gather`).
        evaluate: measures the EMA, or the model where there is none; in the first process only. None: never.

    Raises:
        TrainingError: the loss or a gradient is no longer finite, or the model does not learn.
        KeyboardInterrupt: asked to stop; the state was saved.
    """
    log_to = metrics.open_log(run, after_step=state.step, tensorboard=settings.log.tensorboard)
    watch, saved_at_s = _Watch(run, is_scaled=state.scaler.is_enabled()), time.monotonic()
    with (
        log_to if here.is_main else contextlib.nullcontext() as log,
        _stop_asked() as stop_asked,
        console.progress(_title(state.step), settings.steps - state.step, "steps") as meter,
    ):
        while state.step < settings.steps:
            batch = watch.timed(batches)
            lr = optim.lr_at(state.step + 1, settings.optimizer.lr, settings.steps, settings.schedule)
            terms, grad_norm = _step(state, batch, embed, loss_fn, settings, lr=lr, rank=here.rank)
            watch.add(state.step, lr, gradcache.total(terms), grad_norm)

            last = state.step == settings.steps
            log_due = last or _is_due(state.step, settings.log.every_steps)
            evaluation_due = evaluate is not None and (last or _is_due(state.step, settings.evaluation.every_steps))
            if here.device.type == "cpu" or log_due or evaluation_due:
                watch.check()  # elsewhere looking at the loss makes the device wait
                _show(meter, watch)
            stop = (log_due or here.world_size == 1) and distributed.any_process(stop_asked(), here.device)
            row: dict[str, float] = {}
            if log_due:
                row |= _averaged(terms) | {"lr": lr, "logit_scale": _logit_scale(state.model)}
                row |= {"grad_norm": float(grad_norm)} | watch.speed(state.step, settings.batch_size)
            if evaluate is not None and evaluation_due:
                row |= _evaluate(state, settings, evaluate, here, console)
            if log is not None and row:
                log.write(state.step, {key: value if math.isfinite(value) else None for key, value in row.items()})
            late = time.monotonic() - saved_at_s > settings.log.checkpoint_every_s
            if here.is_main and (last or stop or late or _is_due(state.step, settings.log.checkpoint_every_steps)):
                watch.check()
                save_state(state, run)
                saved_at_s = time.monotonic()
            _stop_if_at_chance(state, settings, run)
            if stop:
                console.say(f"stopped after step {state.step} of {settings.steps}; --resume continues from here")
                raise KeyboardInterrupt
            meter.advance()


def _step(
    state: TrainingState, batch: B, embed: Embed[B], loss_fn: LossFn, settings: LoopSettings, *, lr: float, rank: int
) -> tuple[dict[str, Tensor], Tensor]:
    """One optimiser step: the terms of the loss, and the norm of the gradient before clipping."""
    seed_step(settings.seed, state.step + 1, rank, next(state.model.parameters()).device)
    optim.set_lr(state.optimizer, lr)
    state.optimizer.zero_grad()
    if settings.chunk_size:
        terms = gradcache.cached_backward(
            batch, embed, loss_fn, state.scaler.scale, chunk_size=settings.chunk_size, model=state.model
        )
    else:
        terms = gradcache.backward(batch, embed, loss_fn, state.scaler.scale)
    distributed.average_gradients(state.model)
    state.scaler.unscale_(state.optimizer)
    grad_norm = optim.clip_gradients(state.model, settings.optimizer.max_grad_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    optim.clamp_logit_scale(state.model)
    state.step += 1
    if state.ema is not None:
        optim.update_ema(state.ema, state.model, optim.ema_decay(state.step, settings.keep.ema_decay))
    return terms, grad_norm


def seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Make the random numbers of a step (dropout) a function of (seed, step, rank): there is nothing to save."""
    mixed = ((seed * 1_000_003 + step) * 1_000_003 + rank) % 2**63
    torch.default_generator.manual_seed(mixed)
    if device.type == "cuda":
        torch.cuda.manual_seed(mixed)


@dataclass
class _Watch:
    """Losses that nobody has looked at yet, and where the time goes."""

    run: Path
    is_scaled: bool  # with fp16 a gradient overflows now and then, and that step is left out
    unseen: list[tuple[int, float, Tensor]] = field(default_factory=list)  # step, lr, (loss, gradient norm)
    last_loss: float = math.nan
    waited_s: float = 0.0
    since_s: float = field(default_factory=time.monotonic)
    since_step: int | None = None

    def timed(self, batches: Iterator[B]) -> B:
        started_s = time.monotonic()
        batch = next(batches)
        self.waited_s += time.monotonic() - started_s
        return batch

    def add(self, step: int, lr: float, loss: Tensor, grad_norm: Tensor) -> None:
        if self.since_step is None:
            self.since_step = step - 1
        self.unseen.append((step, lr, torch.stack((loss, grad_norm.to(loss.dtype)))))

    def check(self) -> None:
        if not self.unseen:
            return
        figures = torch.stack([pair for _, _, pair in self.unseen]).tolist()
        for (step, lr, _), (loss, grad_norm) in zip(self.unseen, figures, strict=True):
            if not math.isfinite(loss):
                raise self._broken(f"the loss is {loss}", step, lr)
            if not math.isfinite(grad_norm) and not self.is_scaled:
                raise self._broken(f"the gradient norm is {grad_norm}", step, lr)
        self.last_loss = figures[-1][0]
        self.unseen.clear()

    def speed(self, step: int, batch_size: int) -> dict[str, float]:
        """Images per second and the share of the time spent waiting for data, since the last call."""
        now_s = time.monotonic()
        elapsed_s = max(now_s - self.since_s, 1e-9)
        figures = {
            "images_per_s": (step - (self.since_step or 0)) * batch_size / elapsed_s,
            "data_wait_share": self.waited_s / elapsed_s,
        }
        self.since_s, self.since_step, self.waited_s = now_s, step, 0.0
        return figures

    def _broken(self, what: str, step: int, lr: float) -> TrainingError:
        good = saved_states(self.run)
        kept = f"the last good checkpoint is state/{good[-1].name}" if good else "no checkpoint was saved before it"
        return TrainingError(
            f"{what} at step {step} (learning rate {lr:.3g}); {kept}",
            where=self.run,
            hint="start again with another --out and a lower learning rate (--set optimizer.lr=...), a longer warm-up "
            "(--set schedule.warmup_steps=...) or --set precision=fp32",
        )


def _evaluate(
    state: TrainingState,
    settings: LoopSettings,
    evaluate: Callable[[nn.Module], Evaluation],
    here: Processes,
    console: Console,
) -> dict[str, float]:
    """Measure in the first process while the others wait; note the best weights and the failures to learn."""
    figures: dict[str, float] = {}
    if here.is_main:
        model = state.ema if state.ema is not None else state.model
        result = evaluate(model)
        figures = result.figures
        state.at_chance = state.at_chance + 1 if result.at_chance else 0
        if settings.keep.choose == "best" and (state.best is None or result.score > state.best.score):
            weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
            state.best = Best(result.score, state.step, weights)
        console.say(f"step {state.step}: {result.note}")
    distributed.barrier()
    return figures


def _stop_if_at_chance(state: TrainingState, settings: LoopSettings, run: Path) -> None:
    if settings.evaluation.stop_at_chance_after and state.at_chance >= settings.evaluation.stop_at_chance_after:
        raise TrainingError(
            f"after {state.step} steps and {state.at_chance} evaluations retrieval is still at chance",
            where=run,
            hint="do captions and pictures belong together (look at them with `clip-edge data check`)? are they made "
            "up? is the learning rate right? --set evaluation.stop_at_chance_after=0 goes on regardless",
        )


def _averaged(terms: dict[str, Tensor]) -> dict[str, float]:
    """The terms of the whole batch: the mean of the processes' shares."""
    values = torch.stack([value.float() for value in terms.values()])
    distributed.average([values])
    return dict(zip(terms, values.tolist(), strict=True))


def _logit_scale(model: nn.Module) -> float:
    """The factor itself; every CLIP student has one parameter of that name."""
    found = [p for name, p in model.named_parameters() if name.rpartition(".")[2] == "logit_scale"]
    return float(found[0].detach().exp()) if found else math.nan


def _is_due(step: int, every_steps: int) -> bool:
    return every_steps > 0 and step % every_steps == 0


def _title(done: int) -> str:
    return f"train from step {done + 1}" if done else "train"


def _show(meter: Meter, watch: _Watch) -> None:
    meter.advance(0, note=f"loss {watch.last_loss:.3f}")


@contextlib.contextmanager
def _stop_asked() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came: a step is never cut in two, and the second Ctrl-C stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
