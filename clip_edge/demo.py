"""The whole road in one call: real pictures -> student -> bundle -> proof -> measurement -> report.html.

Every step is a command line that anybody may type; the demo runs it through the same function as the terminal does.
Steps that are done are kept, so a demo that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_edge.cli import run_verb
from clip_edge.console import Console
from clip_edge.errors import ExitCode, UsageError
from clip_edge.files import read_json, write_json

LANGS = ("en", "zh")


@dataclass(frozen=True)
class Size:
    """How much the demo does. `goals` are the least recalls on val in English, or None when too little is trained."""

    images: int
    eval_images: int
    emojis: int
    unseen: int
    steps: int
    batch: int
    goals: dict[str, float] | None
    bench_budget_s: float


FULL = Size(
    images=8000,
    eval_images=500,
    emojis=440,
    unseen=40,
    steps=160,
    batch=512,
    goals={"recall_at_1": 0.60, "recall_at_10": 0.95},
    bench_budget_s=3.0,
)
QUICK = Size(images=600, eval_images=100, emojis=60, unseen=10, steps=40, batch=128, goals=None, bench_budget_s=0.5)


@dataclass(frozen=True)
class Step:
    """One command line. `output` is the folder below the demo's that it makes, if any."""

    name: str
    words: tuple[str, ...]
    output: str | None = None

    @property
    def command(self) -> str:
        """The line that a person would type."""
        return shlex.join(("clip-edge", *self.words))


@dataclass(frozen=True)
class Done:
    """What became of a step."""

    step: Step
    seconds: float
    data: dict[str, Any]
    passed: bool


def plan(out: Path, size: Size) -> list[Step]:
    """The command lines of the demo, in order."""
    data, run, bundle = str(out / "data"), str(out / "run"), str(out / "bundle")
    train = {
        "freeze_image": "true",
        "steps": str(size.steps),
        "batch_size": str(size.batch),
        "evaluation.every_steps": str(size.steps // 5),
        "evaluation.limit": str(size.eval_images),
    }
    settings = [word for key, value in train.items() for word in ("--set", f"{key}={value}")]
    scenes = ("--images", str(size.images), "--eval-images", str(size.eval_images), "--objects", "1-2")
    emojis = ("--emojis", str(size.emojis), "--unseen", str(size.unseen), "--langs", ",".join(LANGS))
    scenarios = "single-stream,offline,cold-start"
    measured = ("--batch", "1,8", "--threads", "1,2", "--scenario", scenarios, "--budget", f"{size.bench_budget_s:g}")
    return [
        Step("data", ("data", "emoji", "--out", data, *scenes, *emojis), "data"),
        Step("run", ("distill", "clip", "--data", data, "--student", "nano-lite0", "--out", run, *settings), "run"),
        Step("eval-val", ("eval", run, "--data", data, "--split", "val", "--lang", ",".join(LANGS))),
        Step("eval-unseen", ("eval", run, "--data", data, "--split", "unseen", "--lang", ",".join(LANGS))),
        Step("bundle", ("export", run, "--target", "onnx", "--out", bundle), "bundle"),
        Step("verify", ("verify", bundle)),
        Step("bench", ("bench", bundle, *measured, "--out", str(out / "bench")), "bench"),
    ]


def run_steps(out: Path, size: Size, console: Console) -> dict[str, Done]:
    """Run every step that is not done yet; all of them by name, in order.

    Raises:
        UsageError: `out` holds something else than a demo.
        ClipEdgeError: a step could not be done.
    """
    _begin(out)
    steps = plan(out, size)
    finished = _kept(out, steps)
    for done in finished:
        console.say(f"done before: {done.step.command}")
    for step in steps[len(finished) :]:
        finished.append(_do(out, steps, step, console))
    return {done.step.name: done for done in finished}


def _begin(out: Path) -> None:
    """Make `out`, or find that an earlier demo made it."""
    steps = out / "steps"
    if out.exists() and not steps.is_dir() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} exists and holds no demo", hint="name another folder with --out, or remove this one")
    steps.mkdir(parents=True, exist_ok=True)


def _record(out: Path, step: Step) -> Path:
    return out / "steps" / f"{step.name}.json"


def _kept(out: Path, steps: Sequence[Step]) -> list[Done]:
    """The steps that an earlier demo did with the same command lines, up to the first that must run."""
    kept: list[Done] = []
    for step in steps:
        found = _read_record(out, step)
        made = step.output is None or (out / step.output).is_dir()
        if not (made and found.get("command") == step.command and found.get("done") is True):
            break
        kept.append(Done(step, float(found["seconds"]), found["data"], passed=True))
    return kept


def _read_record(out: Path, step: Step) -> dict[str, Any]:
    record = _record(out, step)
    found = read_json(record) if record.is_file() else {}
    return found if isinstance(found, dict) else {}


def _do(out: Path, steps: Sequence[Step], step: Step, console: Console) -> Done:
    """Run the step, and record it when it passed. What was made after it is out of date, so its records go first."""
    for later in steps[steps.index(step) + 1 :]:
        _record(out, later).unlink(missing_ok=True)
    words = _without_leftovers(out, step)
    write_json(_record(out, step), {"command": step.command, "done": False})
    console.say(f"\n$ {shlex.join(('clip-edge', *words))}")
    started_s = time.monotonic()
    outcome = run_verb(words, console)
    seconds = time.monotonic() - started_s
    passed = outcome.code == ExitCode.OK
    if passed:
        done = {"command": step.command, "done": True, "seconds": seconds, "data": outcome.data}
        write_json(_record(out, step), done)
    return Done(step, seconds, outcome.data, passed)


def _without_leftovers(out: Path, step: Step) -> tuple[str, ...]:
    """The words to run: training that was interrupted goes on; other leftovers, the demo's own, are removed."""
    if step.output is None or not (out / step.output).exists():
        return step.words
    begun = _read_record(out, step)
    if step.name == "run" and begun.get("command") == step.command and begun.get("done") is False:
        return (*step.words, "--resume")
    shutil.rmtree(out / step.output)
    return step.words
