"""`clip-edge doctor`: what this machine can do, and what is missing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_edge.cli import Outcome
from clip_edge.console import Console
from clip_edge.errors import ExitCode
from clip_edge.files import human_bytes

if TYPE_CHECKING:
    from clip_edge.doctor import Ability, Diagnosis


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # the doctor has no options of its own


def run(args: argparse.Namespace, console: Console) -> Outcome:
    from clip_edge.doctor import diagnose
    from clip_edge.schema import as_dict

    del args
    diagnosis = diagnose(Path.cwd(), console)
    _show(diagnosis, console)
    data = {"core_works": diagnosis.core_works, **as_dict(diagnosis)}
    return Outcome(data, ExitCode.OK if diagnosis.core_works else ExitCode.UNAVAILABLE)


def _show(diagnosis: Diagnosis, console: Console) -> None:
    for name, value in _facts(diagnosis.machine):
        console.out(f"{name:<8} {value}")
    console.out()
    for title, abilities in (("verbs", diagnosis.verbs), ("backends", diagnosis.backends)):
        console.out(title)
        for ability in abilities:
            console.out(_line(ability))
        console.out()
    console.out("packages")
    for found in diagnosis.packages:
        needed_by = found.package.extra or "core"
        console.out(f"  {found.state:<8} {found.package.distribution:<33} {found.version or '–':<10} {needed_by}")
    if diagnosis.problems:
        console.out()
    for problem in diagnosis.problems:
        console.out(f"problem: {problem}")


def _facts(machine: dict[str, Any]) -> list[tuple[str, str]]:
    cpu = machine["cpu"]
    memory, disk = machine["memory_bytes"], machine["free_disk_bytes"]
    gpus = [f"{gpu['name']}, {human_bytes(gpu['memory_bytes'])}, driver {gpu['driver']}" for gpu in machine["gpus"]]
    return [
        ("system", machine["operating_system"]),
        ("python", f"{machine['python']} ({machine['python_path']})"),
        ("cpu", f"{cpu['model']}, {cpu['usable_cores']} of {cpu['logical_cores']} cores"),
        ("kernels", " ".join(cpu["isa"]) or "unknown"),
        ("memory", "unknown" if memory is None else human_bytes(memory)),
        ("disk", "unknown" if disk is None else f"{human_bytes(disk)} free here"),
        ("gpu", "; ".join(gpus) or "none that nvidia-smi knows"),
    ]


def _line(ability: Ability) -> str:
    if ability.works:
        return f"  works    {ability.name}"
    return f"  missing  {ability.name:<14} {ability.install}"
