"""The whole road in one call: real pictures -> teacher -> what it knows -> student -> bundle -> proof -> report.html.

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
SPLITS = ("val", "unseen")
RESUMED = {"distill": ("--resume",), "reinforce": ()}  # verbs that continue a folder, and the words that ask for it


@dataclass(frozen=True)
class Size:
    """How much the demo does. `goals` is None when too little is trained to reach any."""

    images: int
    eval_images: int
    emojis: int
    unseen: int
    teacher: str
    teacher_steps: int
    teacher_batch: int
    student: str
    steps: int
    batch: int
    goals: Goals | None
    bench_batches: str
    bench_threads: str
    bench_budget_s: float


@dataclass(frozen=True)
class Goals:
    """What must come out. Recalls are of text to image on val in English."""

    teacher: dict[str, float]  # the least recalls of the teacher
    kept: float  # the least share of the teacher's R@1 that the student keeps
    fewer: float  # the least factor between the operations of the teacher and the student


FULL = Size(
    images=3000,
    eval_images=500,
    emojis=440,
    unseen=40,
    teacher="nano-lite0",
    teacher_steps=120,
    teacher_batch=512,
    student="nano-xs",
    steps=200,
    batch=128,
    goals=Goals(teacher={"recall_at_1": 0.60, "recall_at_10": 0.95}, kept=0.80, fewer=5.0),
    bench_batches="1,8",
    bench_threads="1,2",
    bench_budget_s=1.0,
)
QUICK = Size(
    images=600,
    eval_images=100,
    emojis=60,
    unseen=10,
    teacher="nano-lite0",
    teacher_steps=40,
    teacher_batch=128,
    student="nano-xs",
    steps=30,
    batch=64,
    goals=None,
    bench_batches="1,8",
    bench_threads="1,2",
    bench_budget_s=0.3,
)


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
    return [_draw(out, size), _teach(out, size), *_learn(out, size), *_examine(out), *_export(out, size)]


def _draw(out: Path, size: Size) -> Step:
    scenes = ("--images", str(size.images), "--eval-images", str(size.eval_images), "--objects", "1-2")
    emojis = ("--emojis", str(size.emojis), "--unseen", str(size.unseen), "--langs", ",".join(LANGS))
    return Step("data", ("data", "emoji", "--out", str(out / "data"), *scenes, *emojis), "data")


def _teach(out: Path, size: Size) -> Step:
    """The teacher: a frozen trunk from ImageNet, whose features are computed once."""
    settings = _settings(
        {
            "freeze_image": "true",
            "steps": str(size.teacher_steps),
            "batch_size": str(size.teacher_batch),
            "evaluation.every_steps": str(size.teacher_steps // 4),
            "evaluation.limit": str(size.eval_images // 2),
        }
    )
    words = ("distill", "clip", "--data", str(out / "data"), "--student", size.teacher, "--out", str(out / "teacher"))
    return Step("teacher", (*words, *settings), "teacher")


def _learn(out: Path, size: Size) -> list[Step]:
    """What the teacher knows, stored once, and the student that reads it.

    No augmentation: in so few steps a student learns most from pictures that look like those it will be asked about.
    """
    data, knowledge = str(out / "data"), str(out / "knowledge")
    ranges = ("--augmentations", "1", "--crop-scale", "1,1", "--randaugment", "0")
    stored = ("--teacher", str(out / "teacher"), "--out", knowledge, *ranges, "--captions", "1", "--dtype", "int8")
    settings = _settings(
        {
            "knowledge": knowledge,
            "steps": str(size.steps),
            "batch_size": str(size.batch),
            "optimizer.lr": "2e-3",
            "schedule.warmup_steps": str(size.steps // 20),
            "evaluation.every_steps": str(size.steps // 5),
            "evaluation.limit": str(size.eval_images // 2),
        }
    )
    words = ("distill", "mobileclip", "--data", data, "--student", size.student, "--out", str(out / "run"), *settings)
    return [Step("knowledge", ("reinforce", data, *stored), "knowledge"), Step("run", words, "run")]


def _examine(out: Path) -> list[Step]:
    """Both on pictures that neither has seen."""
    steps = []
    for name, folder in (("teacher", out / "teacher"), ("student", out / "run")):
        words = ("eval", str(folder), "--data", str(out / "data"))
        for split in SPLITS:
            steps.append(Step(f"{name}-{split}", (*words, "--split", split, "--lang", ",".join(LANGS))))
        classify = ("--split", "val", "--task", "classify", "--lang", ",".join(LANGS))
        steps.append(Step(f"{name}-classify", (*words, *classify)))
    return steps


def _export(out: Path, size: Size) -> list[Step]:
    """The student as a bundle, proved and measured; the teacher only to be measured beside it."""
    bundle, beside = str(out / "bundle"), str(out / "teacher-bundle")
    scenarios = "single-stream,offline,cold-start"
    measured = ("--scenario", scenarios, "--budget", f"{size.bench_budget_s:g}")
    swept = ("--batch", size.bench_batches, "--threads", size.bench_threads)
    return [
        Step("bundle", ("export", str(out / "run"), "--target", "onnx", "--out", bundle), "bundle"),
        Step("verify", ("verify", bundle)),
        Step("teacher-bundle", ("export", str(out / "teacher"), "--target", "onnx", "--out", beside), "teacher-bundle"),
        Step("bench", ("bench", bundle, beside, *swept, *measured, "--out", str(out / "bench")), "bench"),
    ]


def _settings(settings: dict[str, str]) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


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
    """The words to run: what can go on after an interruption goes on; other leftovers, the demo's own, are removed."""
    if step.output is None or not (out / step.output).exists():
        return step.words
    begun = _read_record(out, step)
    if step.words[0] in RESUMED and begun.get("command") == step.command and begun.get("done") is False:
        return (*step.words, *RESUMED[step.words[0]])
    shutil.rmtree(out / step.output)
    return step.words
