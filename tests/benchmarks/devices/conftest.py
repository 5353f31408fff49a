"""A real sshd on the loopback, with keys of its own, and the native tool of this machine."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clip_edge.benchmarks.devices.remote import Program, find_program
from clip_edge.runtime.native import engine_library

ROOT = Path(__file__).parents[3]


@dataclass
class Sshd:
    """A server that can be stopped, connections included, and started again on the same port."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{self.folder}/device"

    def start(self) -> None:
        words = [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(words, stderr=log, start_new_session=True)
        end_s = time.monotonic() + 20
        while time.monotonic() < end_s:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def stop(self) -> None:
        """As a pulled cable: the server and every connection end; what was started on the device goes on."""
        assert self.process is not None
        children = subprocess.run(["ps", "-o", "pid=,args=", "-A"], capture_output=True, text=True).stdout
        self.process.kill()
        self.process.wait()
        for line in children.splitlines():
            pid, _, words = line.strip().partition(" ")
            if words.startswith("sshd") and f"{self.port}" in words:
                os.kill(int(pid), 9)


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    if not Path("/usr/sbin/sshd").exists() and shutil.which("sshd") is None:
        pytest.skip("needs openssh-server (Debian's package)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    (tmp_path / "device").mkdir()
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {tmp_path}/user.pub\nPermitRootLogin yes\nPasswordAuthentication no\n"
    )
    (tmp_path / "ssh_config").write_text(
        f"Host *\n  IdentityFile {tmp_path}/user\n  IdentitiesOnly yes\n  StrictHostKeyChecking no\n"
        f"  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
    )
    monkeypatch.setenv("CLIP_EDGE_SSH", f"ssh -F {tmp_path}/ssh_config")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = Sshd(tmp_path, port)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def host_program() -> Program:
    """The native tool of this tree, as `scripts/native host` builds it, and the installed engine."""
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("cmake and ninja build the native tool; they are not installed")
    targets = ["--target", "clip-edge-cli"]
    for command in (["cmake", "--preset", "host"], ["cmake", "--build", "--preset", "host", "-j2", *targets]):
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert result.returncode == 0, result.stdout + result.stderr
    engine = engine_library()
    assert engine is not None
    return find_program([ROOT / "build" / "host", Path(os.fsdecode(engine)).parent])


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[[str], Program]:
    """A tool that does what the test says, in place of the native one."""

    def write(body: str) -> Program:
        tool = tmp_path / "clip-edge-cli"
        tool.write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "libonnxruntime.so").write_bytes(b"")
        return Program({"clip-edge-cli": tool, "libonnxruntime.so": tmp_path / "libonnxruntime.so"})

    return write
