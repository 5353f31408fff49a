"""The device and its state at the moment of measuring: a number without these is not a number."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from clip_edge import __version__, machine

PACKAGES = ("numpy", "onnxruntime", "openvino", "pillow", "tokenizers")  # what runs inside a measured query
BUSY_LOAD = 0.5  # runnable processes per core before we start; above this a neighbour takes our time


@dataclass(frozen=True)
class Environment:
    """Where and with what the samples were taken. None: this system does not tell."""

    cpu: str
    logical_cores: int
    usable_cores: int
    isa: tuple[str, ...]
    architecture: str
    operating_system: str
    kernel: str
    memory_bytes: int | None
    governor: str | None
    max_frequency_hz: int | None
    load_average_1min: float | None
    on_battery: bool | None
    gpus: tuple[str, ...]
    python: str
    packages: dict[str, str]
    git_revision: str | None
    temperature_c: float | None = None
    frequency_hz: float | None = None
    energy: str = "not asked"  # what counts joules, or why nothing does


def read_environment(energy: str = Environment.energy) -> Environment:
    """The environment of this process, now; `energy` names the meter, or says why there is none."""
    cpu = machine.cpu()
    return Environment(
        cpu=cpu.model,
        logical_cores=cpu.logical_cores,
        usable_cores=cpu.usable_cores,
        isa=cpu.isa,
        architecture=platform.machine(),
        operating_system=machine.operating_system(),
        kernel=platform.release(),
        memory_bytes=machine.memory_bytes(),
        governor=cpu.governor,
        max_frequency_hz=cpu.max_frequency_hz,
        load_average_1min=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        on_battery=on_battery(Path("/sys/class/power_supply")),
        gpus=tuple(gpu.name for gpu in machine.gpus()),
        python=platform.python_version(),
        packages={"clip-edge": __version__, **{name: _version(name) for name in PACKAGES}},
        git_revision=_git_revision(),
        temperature_c=machine.temperature_c(),
        frequency_hz=machine.frequency_hz(),
        energy=energy,
    )


def on_battery(power_supply: Path) -> bool | None:
    """Whether a battery is being drained; None when the machine has none that it tells of."""
    states = [machine.read_text(str(file)) for file in sorted(power_supply.glob("BAT*/status"))]
    if states:
        return "Discharging" in states
    status = machine.command_output("pmset", "-g", "batt")
    return None if status is None else "Battery Power" in status


def warnings(environment: Environment) -> list[str]:
    """What about this machine's state makes its numbers doubtful, each with the remedy."""
    found = []
    load, cores = environment.load_average_1min, environment.usable_cores
    if load is not None and load > BUSY_LOAD * cores:
        found.append(f"the machine is busy (load {load:.1f} on {cores} cores): close other programs and measure again")
    if environment.governor in ("powersave", "conservative", "schedutil"):
        found.append(
            f"the CPU governor is `{environment.governor}`, so clocks vary: "
            "`cpupower frequency-set -g performance` fixes them"
        )
    if environment.on_battery:
        found.append("running on battery: clocks are capped; plug in the charger")
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git_revision() -> str | None:
    """The last commit of the source that runs, or None when it was installed from a wheel."""
    source = str(Path(machine.__file__).parent)
    return machine.command_output("git", "-C", source, "log", "-1", "--format=%H", "--", source) or None
