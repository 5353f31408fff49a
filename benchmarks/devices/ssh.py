"""A machine behind ssh: `ssh://user@host[:port][/folder]`. Keys and jump hosts come from the user's own ssh settings.

`CLIP_EDGE_SSH` replaces the command, as `GIT_SSH_COMMAND` does for git: `CLIP_EDGE_SSH="ssh -F my_config"`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from clip_edge.benchmarks.devices import FORMS, folder_of
from clip_edge.benchmarks.devices.shell import call, tar_of
from clip_edge.errors import UsageError

VARIABLE = "CLIP_EDGE_SSH"
LOST = 255  # ssh's own exit code for everything that is not the remote command's
# No question may wait for a person, and a cable that was pulled is noticed in 15 s.
OPTIONS = ("-T", *("-o", "BatchMode=yes"), *("-o", "ConnectTimeout=10"))
ALIVE = (*("-o", "ServerAliveInterval=5"), *("-o", "ServerAliveCountMax=3"))


class SshDevice:
    """A `Shell` over the ssh command."""

    def __init__(self, user: str, host: str, port: int | None, folder: PurePosixPath) -> None:
        self.name = f"{user}@{host}" if user else host
        self.folder = folder
        ports = () if port is None else ("-p", str(port))
        program = shlex.split(os.environ.get(VARIABLE, "ssh"))
        self._words = [*program, *OPTIONS, *ALIVE, *ports, "--", self.name]

    def run(self, line: str, *, given: bytes = b"", limit_s: float = 60.0) -> bytes:
        """As `Shell.run`."""
        return call([*self._words, line], name=self.name, given=given, limit_s=limit_s, lost_code=LOST)

    def push(self, files: Mapping[str, Path | bytes], into: PurePosixPath, *, limit_s: float) -> None:
        """As `Shell.push`: one tar archive through the connection."""
        self.run(f"mkdir -p {into} && tar -xf - -C {into}", given=tar_of(files), limit_s=limit_s)


def open_device(word: str) -> SshDevice:
    """The device of a URL.

    Raises:
        UsageError: not such a URL.
    """
    try:
        url = urlsplit(word)
        port = url.port
    except ValueError:
        url, port = urlsplit(""), None
    if url.scheme != "ssh" or not url.hostname or url.hostname.startswith("-") or url.query or url.password:
        raise UsageError(f"--device must be of the form {FORMS}; found `{word}`")
    return SshDevice(url.username or "", url.hostname, port, folder_of(url.path.rstrip("/"), "/tmp"))
