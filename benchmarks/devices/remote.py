"""Rows measured on a device: the native tool and the bundle are copied there, run, and what they measured is fetched.

Each row runs detached on the device and leaves its answer in a file. A connection that breaks is tried again: copying
goes on, and the row is fetched, when the device is back. Rows that were fetched are kept whatever happens next.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from clip_edge.benchmarks.devices import folder_of
from clip_edge.benchmarks.devices.shell import DeviceError, Shell
from clip_edge.benchmarks.energy import tegrastats_watts
from clip_edge.bundle import MANIFEST, Bundle
from clip_edge.errors import ArtifactError, UsageError
from clip_edge.files import parse_json

POLL_S = 1.0
LOST_LIMIT_S = 60.0  # a device that rebooted, or a train in a tunnel
START_LIMIT_S = 300.0  # opening a large model on a slow card, before the first query
COPY_LIMIT_S = 900.0
TOOL = "clip-edge-cli"
ENGINE = "libonnxruntime"
LIBRARIES = ("libclip_edge", ENGINE, "libturbojpeg", "libpng16", "libz")  # the last three read JPEG and PNG
Said = TypeVar("Said")


@dataclass(frozen=True)
class Program:
    """What runs on the device: files by name, and a prefix such as an emulator's command line."""

    files: Mapping[str, Path]
    prefix: tuple[str, ...] = ()


@dataclass
class Remote:
    """A device with our folder on it."""

    shell: Shell
    program: Program
    facts: dict[str, str] = field(default_factory=dict)
    lost_limit_s: float = LOST_LIMIT_S
    folder: PurePosixPath = field(default=PurePosixPath("/"), init=False)

    def open(self) -> None:
        """Look at the device, make our folder, copy the program.

        Raises:
            DeviceError: unreachable, or its disk is full.
        """
        self.facts = self.state()
        pattern = f"{self.shell.folder}/clip-edge-bench.XXXXXX"
        made = self.shell.run(f"mktemp -d {pattern}").decode(errors="replace").strip()
        self.folder = folder_of(made, "")  # it goes into command lines: checked like a user's word
        for name, path in self.program.files.items():
            self._push({name: path}, self.folder / "bin")

    def state(self) -> dict[str, str]:
        """The device and how it fares now: governor, clocks, temperature, power mode, battery."""
        script = Path(__file__).with_name("state.sh").read_bytes()
        lines = self.shell.run("sh -s", given=script).decode(errors="replace").splitlines()
        pairs = (line.partition("=") for line in lines if "=" in line)
        return {name: " ".join(value.split())[:500] for name, _, value in pairs}

    def copy_bundle(self, bundle: Bundle, name: str) -> None:
        """What backend onnxruntime reads of the bundle."""
        others = [item.path for item in bundle.manifest.artifacts if item.target != "onnx"]
        skipped = {file for path in others for file in bundle.manifest.listed(path)}
        for file in (MANIFEST, *bundle.manifest.files):
            if file not in skipped:
                self._push({file: bundle.folder / file}, self.folder / name)

    def copy_images(self, images: Sequence[bytes]) -> list[str]:
        """The pictures of the workload; their names on the device."""
        names = {f"{i:05d}.jpg": data for i, data in enumerate(images)}
        self._push(names, self.folder / "work")
        return [f"work/{name}" for name in names]

    def tool(self, row: str, words: Sequence[str], *, limit_s: float) -> dict[str, Any]:
        """Run the native tool detached, wait, and fetch the JSON object that it wrote.

        Raises:
            DeviceError: it hangs, or the device stays away.
            ArtifactError: the tool ended with an error, which is quoted.
        """
        engine = next(name for name in self.program.files if name.startswith(ENGINE))
        command = shlex.join([*self.program.prefix, f"bin/{TOOL}", *words, "--onnxruntime", f"bin/{engine}"])
        script = (
            f"cd {self.folder}\n"
            "command -v tegrastats >/dev/null && "
            f"{{ tegrastats --interval 100 --logfile {row}.power & power=$!; }}\n"
            f"LD_LIBRARY_PATH=bin {command} --json {row}.json >{row}.out 2>{row}.err & echo $! >{row}.pid\n"
            f'wait $!; echo $? >{row}.part; [ -z "$power" ] || kill $power; mv {row}.part {row}.done\n'
        )
        self._push({f"{row}.sh": script.encode()}, self.folder)
        start = f"nohup sh {row}.sh >/dev/null 2>&1 </dev/null &"  # once, though the question may be asked again
        self._ask(f"cd {self.folder} && if mkdir {row}.begun 2>/dev/null; then {start} fi")
        code = self._wait(row, limit_s)
        if code != 0:
            said = self._ask(f"tail -n 3 {self.folder}/{row}.err").decode(errors="replace")
            raise ArtifactError(f"{TOOL} ended with exit code {code} on the device: {' '.join(said.split())}")
        data: dict[str, Any] = parse_json(self._ask(f"cat {self.folder}/{row}.json"), where=self.shell.name)
        return data

    def watts(self, row: str) -> float | None:
        """The mean power of the board while the row ran, where tegrastats told it."""
        log = self._ask(f"cat {self.folder}/{row}.power 2>/dev/null || true").decode(errors="replace")
        known = [found for found in map(tegrastats_watts, log.splitlines()) if found is not None]
        return sum(known) / len(known) if known else None

    def _wait(self, row: str, limit_s: float) -> int:
        end_s = time.monotonic() + limit_s
        while time.monotonic() < end_s:
            found = self._ask(f"cat {self.folder}/{row}.done 2>/dev/null || true").strip()
            if found:
                return int(found) if found.isdigit() else -1
            time.sleep(POLL_S)
        self._ask(f"kill $(cat {self.folder}/{row}.pid) 2>/dev/null || true")
        raise DeviceError(f"{self.shell.name}: {TOOL} gave no answer in {limit_s:.0f} s and was ended")

    def _ask(self, line: str) -> bytes:
        """Run a line that may run twice."""
        return self._patiently(lambda: self.shell.run(line))

    def _push(self, files: Mapping[str, Path | bytes], into: PurePosixPath) -> None:
        try:
            self._patiently(lambda: self.shell.push(files, into, limit_s=COPY_LIMIT_S))
        except DeviceError as problem:
            if problem.lost:
                raise
            free = self._ask(f"df -Pk {into} | tail -n 1").decode(errors="replace").split()
            left = f"{int(free[3]) / 1024:.0f} MB are free there" if free[3:] and free[3].isdigit() else "is it full?"
            raise DeviceError(f"{problem.what}: cannot be copied to {into}; {left}", hint=problem.hint) from problem

    def _patiently(self, act: Callable[[], Said]) -> Said:
        """What may be done twice, tried again while the device is away."""
        end_s = time.monotonic() + self.lost_limit_s
        while True:
            try:
                return act()
            except DeviceError as problem:
                if not problem.lost or time.monotonic() > end_s:
                    raise
                time.sleep(POLL_S)

    def close(self) -> None:
        """Remove our folder, where the device still answers."""
        if self.folder.name.startswith("clip-edge-bench."):
            self.shell.run(f"rm -rf {self.folder}", limit_s=120.0)


def find_program(folders: Sequence[Path], prefix: Sequence[str] = ()) -> Program:
    """The tool and the libraries for the device, found below `folders`: what CMake built, and an ONNX Runtime.

    Raises:
        UsageError: one of the three is not there.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            library = ".so" in path.suffixes and path.name.startswith(LIBRARIES)
            if path.is_file() and (path.name == TOOL or library):
                found.setdefault(path.name, path.resolve())
    for name in (TOOL, "libclip_edge", ENGINE):
        if not any(file.startswith(name) for file in found):
            raise UsageError(
                f"nothing to run on the device: no {name} in {', '.join(map(str, folders)) or 'no folder'}",
                hint="--program FOLDER…: a build for the device (scripts/native aarch64) and scripts/device-libraries",
            )
    return Program(found, tuple(prefix))
