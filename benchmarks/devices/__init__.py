"""Other machines to measure on: a table, and one function that opens what a word on the command line names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, cast

from clip_edge.errors import UsageError

if TYPE_CHECKING:
    from clip_edge.benchmarks.devices.shell import Shell

DEVICES = {
    "ssh": "clip_edge.benchmarks.devices.ssh",  # ssh://user@host[:port][/folder]
    "adb": "clip_edge.benchmarks.devices.adb",  # adb:SERIAL[/folder]
}
FORMS = "here, ssh://user@host[:port][/folder], adb:SERIAL[/folder], iphone:FILE.json"


def open_device(word: str) -> Shell:
    """The device that `word` names. Nothing is started yet.

    Raises:
        UsageError: another form.
    """
    kind = word.partition(":")[0]
    if kind not in DEVICES:
        raise UsageError(f"--device must be of the form {FORMS}; found `{word}`")
    module = importlib.import_module(DEVICES[kind])
    return cast("Callable[[str], Shell]", module.open_device)(word)


def folder_of(path: str, default: str) -> PurePosixPath:
    """The folder on the device in which ours is made.

    Raises:
        UsageError: not absolute, or with characters that a shell reads.
    """
    folder = path or default
    plain = all(letter.isalnum() or letter in "/._-+~" for letter in folder)
    if not folder.startswith("/") or not plain:
        raise UsageError(f"the folder on the device must be an absolute path without spaces; found `{folder}`")
    return PurePosixPath(folder)
