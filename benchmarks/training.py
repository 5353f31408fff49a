"""Trainings as the scripts about recipes run them: command lines that anybody may type, each once, results kept."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from clip_edge.cli import run_verb
from clip_edge.console import Console
from clip_edge.errors import ExitCode
from clip_edge.files import write_json

CONSOLE = Console(progress_bars=False)
SPLITS = ("test", "unseen")


def call(words: Sequence[str]) -> dict[str, Any]:
    """Run one command line; what it found. A failed one ends the script with its exit code."""
    CONSOLE.say(f"$ clip-edge {shlex.join(words)}")
    outcome = run_verb([*words, "--no-progress"], CONSOLE)
    if outcome.code != ExitCode.OK:
        raise SystemExit(outcome.code)
    return outcome.data


def once(note: Path, words: Sequence[str]) -> None:
    """Run a command line, unless its result was noted."""
    if not note.is_file():
        found = call(words)
        note.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, found)


def options(values: Mapping[str, object]) -> list[str]:
    """`--name value` for each."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def settings(values: Mapping[str, str]) -> list[str]:
    """`--set key=value` for each."""
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def train(recipe: str, run: Path, *, data: Path, student: Path, chosen: Mapping[str, str]) -> dict[str, Any]:
    """One training into `run`, from where it was stopped if it was."""
    words = ["distill", recipe, "--data", str(data), "--student", str(student), "--out", str(run)]
    resumed = ["--resume"] if (run / "run.json").is_file() else []
    return call([*words, *resumed, *settings(chosen)])


def recalls(run: Path, data: Path) -> dict[str, Any]:
    """R@1 in both directions on the pictures that nobody trained on."""
    final = {}
    for split in SPLITS:
        found = call(["eval", str(run), "--data", str(data), "--split", split])["languages"]["en"]
        final[split] = {way: found[way]["recall_at_1"] for way in ("text_to_image", "image_to_text")}
    return final


def logged(run: Path, kept: Collection[str]) -> list[dict[str, float]]:
    """The values named in `kept` of every logged step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in kept if key in row} for row in rows]


def spread(values: Sequence[float]) -> str:
    """`43.1 ± 0.8 %` from shares: mean and standard deviation; one value has no spread."""
    deviation = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{deviation} %"
