"""What a device must be able to do: run a line of POSIX shell, and take files. ssh and adb differ in nothing else."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from clip_edge.errors import UnavailableError

LAST_LINES = 3


class DeviceError(UnavailableError):
    """The device cannot be reached, or refused; `lost` is true where a later try may succeed."""

    def __init__(self, what: str, *, lost: bool = False, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.lost = lost


class Shell(Protocol):
    """A device, and the folder on it in which ours is made."""

    name: str
    folder: PurePosixPath

    def run(self, line: str, *, given: bytes = b"", limit_s: float = 60.0) -> bytes:
        """Run a line of shell; what it writes to stdout.

        Raises:
            DeviceError: unreachable, too slow, or it ended with another code than 0.
        """

    def push(self, files: Mapping[str, Path | bytes], into: PurePosixPath, *, limit_s: float) -> None:
        """Write files below the folder `into`; names may hold slashes.

        Raises:
            DeviceError: as `run`; a full disk is named.
        """


def call(words: Sequence[str], *, name: str, given: bytes, limit_s: float, lost_code: int | None) -> bytes:
    """Run a local command that talks to the device; `lost_code` is its exit code for a broken connection.

    Raises:
        DeviceError: as `Shell.run`.
    """
    try:
        done = subprocess.run(words, input=given, capture_output=True, timeout=limit_s)
    except FileNotFoundError as problem:
        raise DeviceError(f"`{words[0]}` is not installed here") from problem
    except subprocess.TimeoutExpired as problem:
        raise DeviceError(f"{name} gave no answer in {limit_s:.0f} s", lost=True) from problem
    if done.returncode == 0:
        return done.stdout
    said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    what = "; ".join(line.strip() for line in said[-LAST_LINES:]) or f"exit code {done.returncode}"
    raise DeviceError(f"{name}: {what}", lost=done.returncode == lost_code)


def tar_of(files: Mapping[str, Path | bytes]) -> bytes:
    """The files as an uncompressed tar archive; programs stay executable."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, source in files.items():
            content = source if isinstance(source, bytes) else source.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()
