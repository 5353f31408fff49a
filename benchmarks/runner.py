"""A plan -> one report: models loaded, peers started and checked, every row measured side by side."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from clip_edge import __version__
from clip_edge.benchmarks.child import Job, launch
from clip_edge.benchmarks.devices.iphone import read_phone
from clip_edge.benchmarks.devices.remote import Remote
from clip_edge.benchmarks.devices.rows import DeviceRun
from clip_edge.benchmarks.energy import EnergyMeter, find_meter
from clip_edge.benchmarks.environment import read_environment
from clip_edge.benchmarks.environment import warnings as environment_warnings
from clip_edge.benchmarks.peers.rows import OpenPeers
from clip_edge.benchmarks.plan import Cell, Plan, settings_of
from clip_edge.benchmarks.report import Device, Failure, Report, Row
from clip_edge.benchmarks.rows import make_row, own_row, row_warnings
from clip_edge.benchmarks.scenarios import Sampler, Timing, sample_in_turns, timed
from clip_edge.benchmarks.soak import Watch
from clip_edge.benchmarks.workload import Workload
from clip_edge.bundle import Tower
from clip_edge.console import SILENT, Console
from clip_edge.runtime import load
from clip_edge.runtime.model import Model

MEMORY_CALLS = 3  # after the third call the arenas of the engine have grown to their size

T = TypeVar("T")


def measure(
    plan: Plan,
    console: Console = SILENT,
    *,
    here: bool = True,
    remotes: Sequence[Remote] = (),
    phones: Sequence[Path] = (),
) -> Report:
    """Measure every row of the plan, `here` and on other devices. What fails is listed; the rest is kept.

    With peers, rows of one bundle, tower, batch and number of threads are measured side by side, and one such group
    after the other: not every model fits into memory in ten engines at once.
    """
    found = find_meter()
    meter, energy = (None, found) if isinstance(found, str) else (found, found.name)
    environment = read_environment(energy)
    noted = environment_warnings(environment)
    rows: dict[Cell, Row] = {}
    failures, doubts = list(plan.skipped), list[str]()
    try:
        for cells in _groups(plan.cells) if here else []:
            _measure_group(plan, cells, meter, console, rows, failures, doubts)
    finally:
        if meter is not None:
            meter.close()
    ordered = [rows[cell] for cell in plan.cells if cell in rows]
    devices: dict[str, Device] = {}
    for remote in remotes:
        run = DeviceRun(remote, plan)
        run.measure(console)
        ordered += run.rows.values()
        failures += run.failures
        devices[run.name] = run.device()
    for file in phones:
        name, found_rows, lacking, devices[name] = read_phone(file, plan)
        ordered += found_rows
        failures += lacking
    return Report(
        schema=1,
        created_by=f"clip-edge {__version__}",
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=settings_of(plan),
        environment=environment,
        bundles={name: bundle.manifest.manifest_sha256 for name, bundle in plan.bundles.items()},
        results=tuple(ordered),
        warnings=(*noted, *row_warnings(ordered), *doubts),
        failures=tuple(failures),
        devices=devices,
    )


def _groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The rows that are measured side by side."""
    if not any(cell.peer for cell in cells):
        return [list(cells)]
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.bundle, cell.tower, cell.batch, cell.threads), []).append(cell)
    return list(groups.values())


def _measure_group(
    plan: Plan,
    cells: Sequence[Cell],
    meter: EnergyMeter | None,
    console: Console,
    rows: dict[Cell, Row],
    failures: list[Failure],
    doubts: list[str],
) -> None:
    own = [cell for cell in cells if cell.peer is None]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clip-edge-bench-")))
        files = _write_images(plan.workload, folder)
        memory = _measure_memory(plan, own, files, folder, console)
        peers = stack.enter_context(OpenPeers(plan, folder, files, console))
        samplers = {cell: _sampler(cell, plan, models, files, folder) for models in [_load(plan, own)] for cell in own}
        samplers |= peers.samplers([cell for cell in cells if cell.peer is not None])
        for sampler in samplers.values():
            sampler.meter = meter
        sample_in_turns([one for cell, one in samplers.items() if cell.scenario != "soak"], console, "measuring")
        for cell, sampler in samplers.items():
            if cell.scenario == "soak":
                sample_in_turns([sampler], console, f"soaking {cell.tower} for {plan.limits_s[cell]:.0f} s")
        failures += peers.failures
        doubts += peers.warnings
        for cell, sampler in samplers.items():
            if sampler.failure:
                failures.append(Failure(cell.name, f"{sampler.failure} (after {len(sampler.samples_s)} samples)"))
            if sampler.samples_s:
                rows[cell] = (
                    own_row(cell, sampler, plan.bundles[cell.bundle], memory[cell])
                    if cell.peer is None
                    else make_row(cell, sampler, *peers.facts(cell))
                )


Loaded = tuple[str, Tower, str, str, int]  # what the rows that use one loaded model have in common


def _loaded(cell: Cell) -> Loaded:
    return cell.bundle, cell.tower, cell.precision, cell.backend, cell.threads


def _load(plan: Plan, cells: Sequence[Cell]) -> dict[Loaded, Model]:
    wanted = {_loaded(cell): cell for cell in cells if cell.scenario != "cold-start"}
    return {
        key: load(
            plan.bundles[cell.bundle].folder,
            cell.backend,
            threads=cell.threads,
            precision=cell.precision,
            towers=[cell.tower],
        )
        for key, cell in wanted.items()
    }


def _write_images(workload: Workload, folder: Path) -> list[str]:
    files = []
    for i, data in enumerate(workload.images):
        file = folder / f"{i:05d}"  # no suffix: what a picture is, its bytes say
        file.write_bytes(data)
        files.append(str(file))
    return files


def _job(cell: Cell, plan: Plan, files: Sequence[str], calls: int) -> Job:
    return Job(
        bundle=str(plan.bundles[cell.bundle].folder.resolve()),
        backend=cell.backend,
        precision=cell.precision,
        threads=cell.threads,
        images=tuple(_take(files, 0, cell.batch)) if cell.tower == "image" else (),
        texts=tuple(_take(plan.workload.texts, 0, cell.batch)) if cell.tower == "text" else (),
        calls=calls,
    )


def _measure_memory(
    plan: Plan, cells: Sequence[Cell], files: Sequence[str], folder: Path, console: Console
) -> dict[Cell, int]:
    """Peak memory per row, each in a process of its own; scenarios with a loaded model share one figure."""
    like = {cell: cell if cell.scenario == "cold-start" else replace(cell, scenario="single-stream") for cell in cells}
    peaks: dict[Cell, int] = {}
    with console.progress("memory", len(set(like.values())), "processes") as meter:
        for cell in dict.fromkeys(like.values()):
            calls = 1 if cell.scenario == "cold-start" else MEMORY_CALLS
            peaks[cell] = launch(_job(cell, plan, files, calls), folder).peak_rss_bytes
            meter.advance()
    return {cell: peaks[same] for cell, same in like.items()}


def _sampler(cell: Cell, plan: Plan, models: Mapping[Loaded, Model], files: Sequence[str], folder: Path) -> Sampler:
    rules = plan.rules(cell)
    if cell.scenario == "cold-start":
        job = _job(cell, plan, files, calls=1)
        return Sampler(lambda: _cold_start(job, folder), rules)
    query = timed(_embed(models[_loaded(cell)], cell, plan.workload))
    return Sampler(query, rules, watch=Watch() if cell.scenario == "soak" else None)


def _cold_start(job: Job, folder: Path) -> Timing:
    launched = launch(job, folder)
    return Timing(launched.first_embedding_s, launched.stages_s)


def _embed(model: Model, cell: Cell, workload: Workload) -> Callable[[], Mapping[str, float]]:
    """Embeds the pictures or sentences of a query, the next ones every time, in batches; returns the stages."""
    count = cell.items
    turn = itertools.count(step=count)

    def images() -> Mapping[str, float]:
        model.encode_images(_take(workload.images, next(turn), count), batch_size=cell.batch)
        return model.timings

    def texts() -> Mapping[str, float]:
        model.encode_texts(_take(workload.texts, next(turn), count), batch_size=cell.batch)
        return model.timings

    return images if cell.tower == "image" else texts


def _take(items: Sequence[T], start: int, count: int) -> list[T]:
    """`count` items from `start` on, around the end as often as needed."""
    return [items[(start + i) % len(items)] for i in range(count)]
