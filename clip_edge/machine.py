"""What this machine is, read from the operating system with the standard library alone. Nothing here raises."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clip_edge.quantization import Machine

COMMAND_TIMEOUT_S = 10.0

# Names as /proc/cpuinfo (x86-64, then Arm) and sysctl write them; the ones that decide which kernels run.
ISA_FLAGS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)

VNNI = frozenset({"avx_vnni", "avx512_vnni"})


@dataclass(frozen=True)
class Cpu:
    """The processor: its name, cores, instruction sets that matter for inference, and clock settings if readable."""

    model: str
    logical_cores: int
    usable_cores: int
    isa: tuple[str, ...]
    governor: str | None
    max_frequency_hz: int | None


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as nvidia-smi names it."""

    name: str
    memory_bytes: int
    driver: str


def read_text(path: str) -> str | None:
    """The text of a small system file, or None when it is not there or may not be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def command_output(*words: str) -> str | None:
    """What a command prints, or None when it is missing, fails or hangs."""
    try:
        done = subprocess.run(words, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()


def cpu() -> Cpu:
    """The processor of this machine."""
    fields = _cpuinfo()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    model = (
        fields.get("model name") or fields.get("Model") or command_output("sysctl", "-n", "machdep.cpu.brand_string")
    )
    clock = "/sys/devices/system/cpu/cpu0/cpufreq"
    kilohertz = read_text(f"{clock}/cpuinfo_max_freq") or ""
    return Cpu(
        model=model or command_output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine() or "unknown",
        logical_cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        isa=tuple(name for name in ISA_FLAGS if name in flags),
        governor=read_text(f"{clock}/scaling_governor"),
        max_frequency_hz=int(kilohertz) * 1000 if kilohertz.isdigit() else None,
    )


def machine_class(architecture: str, isa: Collection[str], system: str = sys.platform) -> Machine:
    """How a processor adds 8-bit products (`quantization.Machine`); "any" where the instruction set does not tell."""
    if architecture.lower() in ("x86_64", "amd64"):
        return "x86-vnni" if VNNI.intersection(isa) else "x86"
    known = "asimddp" in isa or system == "darwin"  # every 64-bit Mac has it, and lists no flags
    return "arm" if architecture.lower() in ("aarch64", "arm64") and known else "any"


def this_machine_class() -> Machine:
    """The class of this machine."""
    return machine_class(platform.machine(), cpu().isa)


def temperature_c() -> float | None:
    """The hottest thermal zone in degrees Celsius, or None where none is readable (most virtual machines)."""
    zones = (read_text(str(file)) or "" for file in Path("/sys/class/thermal").glob("thermal_zone*/temp"))
    known = [int(zone) / 1000 for zone in zones if zone.lstrip("-").isdigit()]
    return max(known, default=None)


def frequency_hz() -> float | None:
    """The mean clock of the cores at this moment, or None where it is not readable."""
    files = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    clocks = [int(text) * 1000 for text in (read_text(str(file)) or "" for file in files) if text.isdigit()]
    return sum(clocks) / len(clocks) if clocks else None


def _cpuinfo() -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in (read_text("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def usable_cores() -> int:
    """The cores that this process may run on: affinity counted, which containers and `taskset` lower."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """The main memory of this machine, or the lower limit that a container sets."""
    total = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = read_text("/sys/fs/cgroup/memory.max") or ""
    if limit.isdigit():
        return min(int(limit), total) if total else int(limit)
    return total


def free_disk_bytes(folder: Path) -> int | None:
    """The free space on the disk of `folder`, or None when it cannot be read."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def gpus() -> list[Gpu]:
    """The NVIDIA GPUs that nvidia-smi lists; empty without a driver."""
    listing = command_output(
        "nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"
    )
    found = []
    for line in (listing or "").splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 3 and cells[1].isdigit():
            found.append(Gpu(cells[0], int(cells[1]) * 1024 * 1024, cells[2]))
    return found


def operating_system() -> str:
    """The name and version of the system as its users know it."""
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]} ({platform.machine()})"
    try:
        pretty = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        pretty = f"{platform.system()} {platform.release()}"
    return f"{pretty} ({platform.machine()})"
