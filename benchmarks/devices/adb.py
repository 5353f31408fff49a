"""An Android device behind adb: `adb:SERIAL[/folder]`; an empty serial takes the only one that is connected."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from clip_edge.benchmarks.devices import folder_of
from clip_edge.benchmarks.devices.shell import DeviceError, call, tar_of

FOLDER = "/data/local/tmp"  # where the shell's user may run programs
LOST_WORDS = ("device offline", "not found", "no devices", "device still")


class AdbDevice:
    """A `Shell` over the adb command."""

    def __init__(self, serial: str, folder: PurePosixPath) -> None:
        self.name = f"adb:{serial}"
        self.folder = folder
        self._words = ["adb", *(("-s", serial) if serial else ())]

    def run(self, line: str, *, given: bytes = b"", limit_s: float = 60.0) -> bytes:
        """As `Shell.run`; `exec-out` would lose the exit code, `shell` carries it."""
        return self._call("shell", line, given=given, limit_s=limit_s)

    def push(self, files: Mapping[str, Path | bytes], into: PurePosixPath, *, limit_s: float) -> None:
        """As `Shell.push`: adb's own transfer of one tar archive, unpacked on the device."""
        with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
            archive.write(tar_of(files))
            archive.flush()
            self.run(f"mkdir -p {into}")
            self._call("push", archive.name, f"{into}/pushed.tar", given=b"", limit_s=limit_s)
        self.run(f"cd {into} && tar -xf pushed.tar && rm pushed.tar", limit_s=limit_s)

    def _call(self, *words: str, given: bytes, limit_s: float) -> bytes:
        try:
            return call([*self._words, *words], name=self.name, given=given, limit_s=limit_s, lost_code=None)
        except DeviceError as problem:
            lost = problem.lost or any(word in problem.what for word in LOST_WORDS)
            raise DeviceError(problem.what, lost=lost, hint=problem.hint) from problem


def open_device(word: str) -> AdbDevice:
    """The device of `adb:SERIAL[/folder]`.

    Raises:
        UsageError: the folder is not an absolute path.
    """
    serial, slash, path = word.partition(":")[2].partition("/")
    return AdbDevice(serial, folder_of(slash + path, FOLDER))
