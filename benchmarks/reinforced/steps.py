"""Command lines as the scripts here type them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_edge.cli import run_verb
from clip_edge.console import Console
from clip_edge.errors import ExitCode
from clip_edge.files import write_json

CONSOLE = Console(progress_bars=False)


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
