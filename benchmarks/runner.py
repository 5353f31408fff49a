"""A plan -> one report: models loaded, peers started and checked, every row measured side by side."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from clip_edge import __version__
from clip_edge.benchmarks.child import Job, launch
from clip_edge.benchmarks.devices.iphone import read_phone
from clip_edge.benchmarks.devices.remote import Remote
from clip_edge.benchmarks.devices.rows import DeviceRun
from clip_edge.benchmarks.energy import EnergyMeter, find_meter
from clip_edge.benchmarks.environment import Environment, read_environment
from clip_edge.benchmarks.environment import warnings as environment_warnings
from clip_edge.benchmarks.peers.rows import OpenPeers
from clip_edge.benchmarks.plan import ALONE, Cell, Plan, settings_of
from clip_edge.benchmarks.reference import ReferenceLoad
from clip_edge.benchmarks.report import Accuracy, Device, Failure, Report, Row
from clip_edge.benchmarks.rows import accuracy_of, make_row, own_row, row_warnings
from clip_edge.benchmarks.scenarios import Sampler, Timing, sample_in_turns, timed
from clip_edge.benchmarks.soak import Watch
from clip_edge.benchmarks.workload import Workload
from clip_edge.bundle import Tower
from clip_edge.console import SILENT, Console
from clip_edge.errors import ClipEdgeError
from clip_edge.runtime import load
from clip_edge.runtime.model import Model

MEMORY_CALLS = 3  # after the third call the arenas of the engine have grown to their size

KEEP_EVERY_S = 30.0
INTERRUPTED = "interrupted"

T = TypeVar("T")


def measure(
    plan: Plan,
    console: Console = SILENT,
    *,
    here: bool = True,
    remotes: Sequence[Remote] = (),
    phones: Sequence[Path] = (),
    keep: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Measure every row of the plan, `here` and on other devices. What fails is listed; the rest is kept.

    With peers, rows of one bundle, tower, batch and number of threads are measured side by side, and one such group
    after the other: not every model fits into memory in ten engines at once. Ctrl-C ends the run with a report of what
    was measured, marked as interrupted; `keep` is given such a report twice a minute, should the process be killed.
    """
    found = find_meter()
    meter, energy = (None, found) if isinstance(found, str) else (found, found.name)
    run = _Run(plan, meter, console, read_environment(energy), keep)
    try:
        for cells in _groups(plan.cells) if here else []:
            run.measure_group(cells)
        for remote in remotes:
            run.measure_on(remote)
        for file in phones:
            run.read_from(file)
    except KeyboardInterrupt:
        return run.interrupted(plan.cells if here else ())
    finally:
        if meter is not None:
            meter.close()
    return run.report()


def _groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The rows that are measured side by side."""
    if not any(cell.peer for cell in cells):
        return [list(cells)]
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.bundle, cell.tower, cell.batch, cell.threads), []).append(cell)
    return list(groups.values())


Loaded = tuple[str, Tower, str, str, int]  # what the rows that use one loaded model have in common


def _loaded(cell: Cell) -> Loaded:
    return cell.bundle, cell.tower, cell.precision, cell.backend, cell.threads


@dataclass
class _Run:
    """What has been found so far."""

    plan: Plan
    meter: EnergyMeter | None
    console: Console
    environment: Environment
    keep: Callable[[Report], None]
    rows: dict[Cell, Row] = field(default_factory=dict)
    other_rows: list[Row] = field(default_factory=list)  # of other devices
    devices: dict[str, Device] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    accuracy: dict[Loaded, Accuracy | None] = field(default_factory=dict)
    kept_s: float = field(default_factory=time.monotonic)

    def measure_group(self, cells: Sequence[Cell]) -> None:
        """Measure rows side by side; when it is ended by force, what they have until then stays."""
        own = [cell for cell in cells if cell.peer is None]
        apart = [cell for cell in cells if self.plan.is_apart(cell)]
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clip-edge-bench-")))
            files = _write_images(self.plan.workload, folder)
            memory = self._measure_memory([cell for cell in own if cell not in apart], files, folder)
            self._compare([cell for cell in own if cell in memory or cell in apart])
            peers = stack.enter_context(OpenPeers(self.plan, folder, files, self.console))
            models = self._load(list(memory))
            samplers = {
                cell: _sampler(cell, self.plan, models, files, folder)
                for cell in memory
                if cell.scenario == "cold-start" or _loaded(cell) in models
            }
            samplers |= peers.samplers(apart)
            reference = ReferenceLoad()
            for cell, sampler in samplers.items():
                sampler.meter = self.meter
                if cell.scenario not in ALONE:
                    sampler.reference = reference
            try:
                self._sample(samplers, memory, peers)
            except KeyboardInterrupt:
                for sampler in samplers.values():
                    if not (sampler.finished or sampler.failure):
                        sampler.failure = INTERRUPTED
                raise
            finally:
                self.failures += peers.failures
                self.rows |= self._rows(samplers, memory, peers)
                self.doubts += peers.warnings
                self.failures += [
                    Failure(cell.name, f"{sampler.failure} (after {len(sampler.samples_s)} samples)")
                    for cell, sampler in samplers.items()
                    if sampler.failure
                ]

    def _sample(self, samplers: Mapping[Cell, Sampler], memory: Mapping[Cell, int], peers: OpenPeers) -> None:
        def after_turn() -> None:
            if time.monotonic() - self.kept_s >= KEEP_EVERY_S:
                self.keep(replace(self.report(self._rows(samplers, memory, peers)), interrupted=True))
                self.kept_s = time.monotonic()

        turns = [one for cell, one in samplers.items() if cell.scenario != "soak"]
        sample_in_turns(turns, self.console, "measuring", after_turn=after_turn)
        for cell, sampler in samplers.items():
            if cell.scenario == "soak":
                title = f"soaking {cell.tower} for {self.plan.limits_s[cell]:.0f} s"
                sample_in_turns([sampler], self.console, title, after_turn=after_turn)

    def _rows(self, samplers: Mapping[Cell, Sampler], memory: Mapping[Cell, int], peers: OpenPeers) -> dict[Cell, Row]:
        found = {}
        for cell, sampler in samplers.items():
            if not sampler.samples_s:
                continue
            if cell.peer is None:
                memory_bytes = memory[cell] if cell in memory else peers.facts(cell)[0]
                accuracy = self.accuracy.get(_loaded(cell))
                found[cell] = own_row(cell, sampler, self.plan.bundles[cell.bundle], memory_bytes, accuracy)
            else:
                found[cell] = make_row(cell, sampler, *peers.facts(cell))
        return found

    def _measure_memory(self, cells: Sequence[Cell], files: Sequence[str], folder: Path) -> dict[Cell, int]:
        """Peak memory per row, each in a process of its own; scenarios with a loaded model share one figure.

        A row whose process fails is listed and left out: in this process it could end the whole run.
        """
        like = {
            cell: cell if cell.scenario == "cold-start" else replace(cell, scenario="single-stream") for cell in cells
        }
        peaks: dict[Cell, int] = {}
        with self.console.progress("memory", len(set(like.values())), "processes") as meter:
            for cell in dict.fromkeys(like.values()):
                calls = 1 if cell.scenario == "cold-start" else MEMORY_CALLS
                with self._listing(same.name for same, first in like.items() if first == cell):
                    peaks[cell] = launch(_job(cell, self.plan, files, calls), folder).peak_rss_bytes
                meter.advance()
        return {cell: peaks[same] for cell, same in like.items() if same in peaks}

    def _compare(self, cells: Sequence[Cell]) -> None:
        """How near each loaded model comes to the reference; what cannot be loaded is listed when it is."""
        for cell in cells:
            if _loaded(cell) not in self.accuracy:
                with suppress(ClipEdgeError):
                    self.accuracy[_loaded(cell)] = accuracy_of(cell, self.plan.bundles[cell.bundle])

    def _load(self, cells: Sequence[Cell]) -> dict[Loaded, Model]:
        wanted: dict[Loaded, list[Cell]] = {}
        for cell in cells:
            if cell.scenario != "cold-start":
                wanted.setdefault(_loaded(cell), []).append(cell)
        models = {}
        for key, (cell, *others) in wanted.items():
            with self._listing(one.name for one in (cell, *others)):
                models[key] = load(
                    self.plan.bundles[cell.bundle].folder,
                    cell.backend,
                    threads=cell.threads,
                    precision=cell.precision,
                    towers=[cell.tower],
                )
        return models

    @contextmanager
    def _listing(self, names: Iterable[str]) -> Iterator[None]:
        """What goes wrong inside is the reason why these rows are missing, and the run goes on."""
        try:
            yield
        except ClipEdgeError as problem:
            self.failures += [Failure(name, problem.what) for name in names]

    def measure_on(self, remote: Remote) -> None:
        """Measure on another device; rows that were fetched stay, whatever ends it."""
        run = DeviceRun(remote, self.plan)
        try:
            run.measure(self.console)
        finally:
            self.other_rows += run.rows.values()
            self.failures += run.failures
            self.devices[run.name] = run.device()

    def read_from(self, file: Path) -> None:
        """What a phone measured."""
        name, rows, lacking, self.devices[name] = read_phone(file, self.plan)
        self.other_rows += rows
        self.failures += lacking

    def interrupted(self, cells: Sequence[Cell]) -> Report:
        """The report after Ctrl-C: rows that were not begun are listed, too."""
        known = {failure.row for failure in self.failures}
        missing = [cell.name for cell in cells if cell not in self.rows and cell.name not in known]
        self.failures += [Failure(name, f"{INTERRUPTED} before it was begun") for name in missing]
        return replace(self.report(), interrupted=True)

    def report(self, further: Mapping[Cell, Row] | None = None) -> Report:
        """The report of all rows known, and of `further` ones that are still being measured."""
        rows = {**self.rows, **(further or {})}
        ordered = [rows[cell] for cell in self.plan.cells if cell in rows] + self.other_rows
        noted = environment_warnings(self.environment)
        return Report(
            schema=1,
            created_by=f"clip-edge {__version__}",
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            settings=settings_of(self.plan),
            environment=self.environment,
            bundles={name: bundle.manifest.manifest_sha256 for name, bundle in self.plan.bundles.items()},
            results=tuple(ordered),
            warnings=(*noted, *row_warnings(ordered), *self.doubts),
            failures=(*self.plan.skipped, *self.failures),
            devices=dict(self.devices),
        )


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
