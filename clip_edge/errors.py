"""Every error that clip-edge raises on purpose, and the exit code that each one ends with.

ClipEdgeError
├── UsageError            2  the command line asks for something that cannot be
│   ├── ConfigError       2  a recipe, student or option file holds a wrong key or value
│   └── DataError         2  pictures, captions or a data set cannot be used
├── ArtifactError         1  a folder that clip-edge wrote is damaged or is not what it says
│   ├── BundleError
│   └── CheckpointError
├── TrainingError         1  training went wrong (NaN, accuracy at chance)
├── ExportError           1  a graph could not be made
│   └── VerificationError 1  the graph exists and its numbers are wrong
└── UnavailableError      3  this machine lacks a package, driver, system or disk space
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What the process returns; the same for every verb."""

    OK = 0
    NO = 1
    USAGE = 2
    UNAVAILABLE = 3
    INTERRUPTED = 130


class ClipEdgeError(Exception):
    """An error with the four things a reader needs: what, where, and what to do next.

    `what` says what was expected and what was found, `where` names the file or item,
    `hint` is the next action. `str(error)` is the whole message as the terminal shows it.
    """

    exit_code = ExitCode.NO

    def __init__(self, what: str, *, where: str | Path | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:  # keyword arguments survive the trip between processes
        return _rebuild, (type(self), self.what, self.where, self.hint)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where is not None:
            lines.append(f"  in: {self.where}")
        if self.hint is not None:
            lines.append(f"\nhint: {self.hint}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """The same message as data, for `--json`."""
        return {"type": type(self).__name__, "what": self.what, "where": self.where, "hint": self.hint}


def _rebuild(kind: type[ClipEdgeError], what: str, where: str | None, hint: str | None) -> ClipEdgeError:
    return kind(what, where=where, hint=hint)


class UsageError(ClipEdgeError):
    """The command line asks for something that cannot be."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """A recipe, student or option file holds a wrong key or value."""


class DataError(UsageError):
    """Pictures, captions or a data set cannot be used."""


class ArtifactError(ClipEdgeError):
    """A folder that clip-edge wrote is damaged or is not what it says."""


class BundleError(ArtifactError):
    """A bundle is damaged, hostile or from another version."""


class CheckpointError(ArtifactError):
    """A student folder, weight file or training state cannot be read."""


class TrainingError(ClipEdgeError):
    """Training ran and went wrong."""


class ExportError(ClipEdgeError):
    """A graph could not be made."""


class VerificationError(ExportError):
    """A graph was made, executed, and its numbers differ from the reference."""


class UnavailableError(ClipEdgeError):
    """This machine lacks a package, driver, operating system or disk space."""

    exit_code = ExitCode.UNAVAILABLE


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """The known word nearest to `word`, or None when nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return near[0] if near else None


def unknown_name(
    kind: str, word: str, known: Iterable[str], *, error: type[ClipEdgeError] = UsageError
) -> ClipEdgeError:
    """The error to raise for a name that is not in a table: the nearest name first, then all of them."""
    names = sorted(known)
    near = suggestion(word, names)
    choices = ", ".join(names)
    hint = f"did you mean `{near}`? known: {choices}" if near else f"known: {choices}"
    return error(f"unknown {kind}: `{word}`", hint=hint)
