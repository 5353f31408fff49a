"""What a person sees: talk and progress on stderr, data on stdout."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed

LINE_EVERY_S = 15.0  # without a terminal (CI, a log file) progress is a line now and then


def printable(text: str) -> str:
    """`text` without control characters: captions and file names must not steer the reader's terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class Meter(Protocol):
    """The progress of one piece of work."""

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """`count` more units are done; `note` is a short figure to show beside the bar."""


@dataclass
class Console:
    """Where the words of a verb go. Libraries take one as an argument and never print by themselves."""

    quiet: bool = False
    verbose: bool = False
    progress_bars: bool = True
    data_to_stdout: bool = True  # False when stdout carries the one JSON object

    def say(self, text: str) -> None:
        """Talk, on stderr; silent with --quiet."""
        if not self.quiet:
            self._stderr(text)

    def detail(self, text: str) -> None:
        """Talk that only --verbose shows."""
        if self.verbose:
            self._stderr(text)

    def warn(self, text: str) -> None:
        """Something that the reader must know, on stderr, even with --quiet."""
        self._stderr(f"warning: {text}")

    def out(self, text: str = "") -> None:
        """A line of the result, on stdout."""
        if self.data_to_stdout:
            sys.stdout.write(printable(text) + "\n")
            sys.stdout.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
        """A table of the result, on stdout. A column whose name begins with `>` is aligned to the right."""
        if not self.data_to_stdout:
            return
        from rich.console import Console as RichConsole
        from rich.table import Table

        table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
        for column in columns:
            right = column.startswith(">")
            table.add_column(column.removeprefix(">"), justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(printable(str(cell)) for cell in row))
        width = None if sys.stdout.isatty() else 160
        RichConsole(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False).print(table)

    @contextmanager
    def progress(self, title: str, total: int | None, unit: str = "") -> Iterator[Meter]:
        """A progress bar with rate and ETA while the block runs; plain lines when stderr is no terminal."""
        if self.quiet or not self.progress_bars:
            yield _NoMeter()
        elif sys.stderr.isatty() and not os.environ.get("CLIP_EDGE_NO_PROGRESS"):
            with _rich_progress() as bars:
                yield _RichMeter(bars, bars.add_task(title, total=total, unit=unit, note=""))
        else:
            meter = _LineMeter(self, title, total, unit)
            yield meter
            meter.finish()

    @staticmethod
    def _stderr(text: str) -> None:
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()


SILENT = Console(quiet=True, progress_bars=False, data_to_stdout=False)


class _NoMeter:
    def advance(self, count: int = 1, note: str | None = None) -> None:
        pass


@dataclass
class _RichMeter:
    bars: Progress
    task: TaskID

    def advance(self, count: int = 1, note: str | None = None) -> None:
        if note is None:
            self.bars.update(self.task, advance=count)
        else:
            self.bars.update(self.task, advance=count, note=note)


class _LineMeter:
    def __init__(self, console: Console, title: str, total: int | None, unit: str) -> None:
        self.console, self.title, self.total, self.unit = console, title, total, unit
        self.done = 0
        self.note = ""
        self.started_s = self.told_s = time.monotonic()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        self.done += count
        self.note = note or self.note
        now_s = time.monotonic()
        if now_s - self.told_s >= LINE_EVERY_S:
            self.told_s = now_s
            elapsed_s = now_s - self.started_s
            left = ""
            if self.total and self.done:
                left = f", {elapsed_s / self.done * (self.total - self.done):.0f} s left"
            self.console.say(f"{self.title}: {self._count()} after {elapsed_s:.0f} s{left}{self._note()}")

    def finish(self) -> None:
        elapsed_s = time.monotonic() - self.started_s
        self.console.say(f"{self.title}: {self._count()} in {elapsed_s:.1f} s{self._note()}")

    def _count(self) -> str:
        total = "" if self.total is None else f"/{self.total}"
        return f"{self.done}{total} {self.unit}".rstrip()

    def _note(self) -> str:
        return f" ({self.note})" if self.note else ""


def _rich_progress() -> Progress:
    from rich import progress
    from rich.console import Console as RichConsole

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[unit]}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("ETA"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}"),
        console=RichConsole(stderr=True),
    )
