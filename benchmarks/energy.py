"""What a query costs in joules, where this machine can say: RAPL counters, an NVIDIA GPU, or a Jetson's rails.

A figure is that of the whole package or board while the query ran, idle share included; it is not the process's alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from clip_edge.machine import read_text

POWERCAP = Path("/sys/class/powercap")
INTERVAL_MS = 100
# Rails that carry the whole board, by Jetson family: Orin and Xavier NX, AGX modules (three rails are summed), Nano.
BOARD_RAILS = (("VDD_IN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), ("GPU", "CPU", "SOC", "CV"), ("POM_5V_IN",))


class EnergyMeter(Protocol):
    """A counter of joules that only grows."""

    name: str

    def joules(self) -> float:
        """The energy since some moment in the past."""

    def close(self) -> None:
        """Stop what counts."""


class RaplMeter:
    """Intel's and AMD's Running Average Power Limit counters, summed over the processor packages."""

    def __init__(self, zones: list[Path]) -> None:
        self.name = f"RAPL, {len(zones)} processor package(s)"
        self._zones = zones
        self._wrap = [int(read_text(str(zone / "max_energy_range_uj")) or 0) for zone in zones]
        self._last = [self._read(zone) for zone in zones]
        self._total_uj = 0

    @staticmethod
    def _read(zone: Path) -> int:
        return int(read_text(str(zone / "energy_uj")) or 0)

    def joules(self) -> float:
        """Read often enough: a counter that wraps twice between two reads loses a turn (minutes at full load)."""
        for i, zone in enumerate(self._zones):
            now = self._read(zone)
            step = now - self._last[i]
            self._total_uj += step if step >= 0 else step + self._wrap[i]
            self._last[i] = now
        return self._total_uj * 1e-6

    def close(self) -> None:
        """Nothing runs."""


class PowerMeter:
    """Watts from the lines that a command prints, summed over time by a thread."""

    def __init__(self, name: str, words: list[str], watts: Callable[[str], float | None]) -> None:
        self.name = name
        self._watts = watts
        self._joules = 0.0
        self._power_w: float | None = None
        self._since_s = time.monotonic()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = self._watts(line)
            if found is not None:
                with self._lock:
                    self._add_up()
                    self._power_w = found

    def _add_up(self) -> None:
        now_s = time.monotonic()
        self._joules += (self._power_w or 0.0) * (now_s - self._since_s)
        self._since_s = now_s

    def joules(self) -> float:
        """The last power is taken to hold until the next line."""
        with self._lock:
            self._add_up()
            return self._joules

    def close(self) -> None:
        """End the command."""
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()


def tegrastats_watts(line: str) -> float | None:
    """The board's power in a line of `tegrastats`, such as `… VDD_IN 4940mW/4940mW …`; None when no rail is known."""
    rails = {name: float(milliwatts) for name, milliwatts in re.findall(r"(\w+) (\d+)(?:mW)?/\d+(?:mW)?", line)}
    for names in BOARD_RAILS:
        if all(name in rails for name in names):
            return sum(rails[name] for name in names) / 1000
    return None


def nvidia_watts(line: str) -> float | None:
    """The power in a line of `nvidia-smi --query-gpu=power.draw`; None where a GPU says `[N/A]`."""
    try:
        return float(line)
    except ValueError:
        return None


def find_meter(powercap: Path = POWERCAP) -> EnergyMeter | str:
    """The meter of this machine, or the reason why there is none."""
    zones = sorted(zone for zone in powercap.glob("*-rapl:*") if zone.name.count(":") == 1)
    readable = [zone for zone in zones if read_text(str(zone / "energy_uj"))]
    if shutil.which("tegrastats"):
        return PowerMeter("tegrastats, whole board", ["tegrastats", "--interval", str(INTERVAL_MS)], tegrastats_watts)
    if readable:
        return RaplMeter(readable)
    if zones:
        return f"not readable: {zones[0] / 'energy_uj'} may be read by root only"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--id=0", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
        return PowerMeter("nvidia-smi, GPU 0 alone", [*query, f"-lms={INTERVAL_MS}"], nvidia_watts)
    return "not readable: no RAPL counters, no nvidia-smi, no tegrastats"
