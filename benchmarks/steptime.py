"""Time and memory of a training step: short runs in fresh processes that take turns, as factors of the first way.

Reading happens in the training process (`workers = 0`), so a step's time is all of the work.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from clip_edge.benchmarks.training import CONSOLE, settings

ROUNDS = 2
WARMUP_STEPS = 2
KIBIBYTE = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss
TRAINING = {
    "steps": "8",
    "batch_size": "64",
    "workers": "0",
    "evaluation.split": "",
    "log.every_steps": "1",
    "log.tensorboard": "false",
    "log.checkpoint_every_steps": "1000",
}


@dataclass(frozen=True)
class Way:
    """One way to train: a recipe with settings."""

    recipe: str
    settings: Mapping[str, str] = field(default_factory=dict)


def measure(ways: Mapping[str, Way], *, data: Path, student: str, work: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    """Raw times, medians and peak memory of every way, and both as factors of the first way's."""
    samples_s: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, list[int]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            words = ["distill", way.recipe, "--data", str(data), "--student", student]
            times, peak = _run([*words, *settings(TRAINING | dict(way.settings))], work / "cost-run")
            samples_s[name] += times
            peaks[name].append(peak)
    first = next(iter(ways))
    found = {name: {"step_s": median(samples_s[name]), "peak_bytes": median(peaks[name])} for name in ways}
    return {
        name: {
            **values,
            "step_factor": values["step_s"] / found[first]["step_s"],
            "memory_factor": values["peak_bytes"] / found[first]["peak_bytes"],
            "samples_s": samples_s[name],
        }
        for name, values in found.items()
    }


def _run(words: list[str], run: Path) -> tuple[list[float], int]:
    """Seconds of each step behind the first ones, and the peak memory of the process that trained."""
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "clip_edge.cli", *words, "--out", str(run), "-q", "--no-progress"]
    CONSOLE.say(f"$ {' '.join(command[2:])}")
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(child.returncode)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = [int(TRAINING["batch_size"]) / row["images_per_s"] for row in rows if row["step"] > WARMUP_STEPS]
    return times, usage.ru_maxrss * KIBIBYTE


def cost_table(ways: Mapping[str, Mapping[str, Any]], student: str, training: Mapping[str, str]) -> str:
    """The medians as a Markdown table."""
    first = next(iter(ways))
    rows = [
        f"| student `{student}`, batch {training['batch_size']} | s a step | of {first} | peak memory, of {first} |"
    ]
    rows.append("|---|---|---|---|")
    for name, found in ways.items():
        factors = f"{found['step_factor']:.2f} | {found['memory_factor']:.2f}"
        rows.append(f"| {name} | {found['step_s']:.3f} | {factors} |")
    return "\n".join(rows)
