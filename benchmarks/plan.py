"""What will be measured: every combination of bundles, engines, batches, threads and scenarios, laid out as rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from clip_edge.benchmarks.peers import PEERS, PREFIX
from clip_edge.benchmarks.reference import identity
from clip_edge.benchmarks.report import Failure, Settings, WorkloadFacts
from clip_edge.benchmarks.scenarios import COLD_RULES, Rules, Scenario
from clip_edge.benchmarks.workload import Workload, from_pixels
from clip_edge.bundle import GOLDEN, TOWERS, Bundle, Tower
from clip_edge.errors import ClipEdgeError, UnavailableError, UsageError
from clip_edge.golden import MAX_GOLDEN_BYTES, read_golden
from clip_edge.runtime.backends import find_backend

OFFLINE_SAMPLES = 64  # handed over at once; enough that the last, smaller batch does not count
STREAMS = 8  # samples of a multi-stream query (MLPerf Inference)
OFFLINE_MIN_QUERIES = 10
LEAST_SHARE = 0.8  # of the budget: what makes a comparison believable is time, see `scenarios.Rules`
ALONE: tuple[Scenario, ...] = ("cold-start", "soak")  # one picture or sentence, whatever the batches
PEERLESS: tuple[Scenario, ...] = ("cold-start", "soak")  # their processes are started once, for all of their rows
TIMED = (
    "single-stream and offline: from encoded picture bytes or a sentence to the embedding, model loaded; "
    "cold-start: from process launch to the first embedding, files in the page cache"
)


def items_of(scenario: Scenario, batch: int) -> int:
    """Pictures or sentences of one query."""
    return {"offline": OFFLINE_SAMPLES, "multi-stream": STREAMS}.get(scenario, batch)


@dataclass(frozen=True)
class Cell:
    """One combination that is measured: it becomes one row."""

    bundle: str
    tower: Tower
    precision: str
    backend: str
    batch: int
    threads: int
    scenario: Scenario

    @property
    def peer(self) -> str | None:
        """The peer that runs it, or None for a backend of ours."""
        return self.backend.removeprefix(PREFIX) if self.backend.startswith(PREFIX) else None

    @property
    def items(self) -> int:
        """Pictures or sentences of one query."""
        return items_of(self.scenario, self.batch)

    @property
    def name(self) -> str:
        """The row in words."""
        words = (self.bundle, self.tower, self.precision, self.backend)
        return " · ".join((*words, f"batch {self.batch}", f"threads {self.threads}", self.scenario))


@dataclass(frozen=True)
class Selection:
    """A table of a suite, or what the command line says: every combination is a row.

    `bundles`, `peers` and `precisions` are patterns for names, `*` for all. `budget_s` is the most time a row may
    take, `soak_s` the length of a soak.
    """

    bundles: tuple[str, ...] = ("*",)
    towers: tuple[Tower, ...] = TOWERS
    backends: tuple[str, ...] = ("onnxruntime",)
    peers: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("*",)
    batches: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (1,)
    scenarios: tuple[Scenario, ...] = ("single-stream",)
    budget_s: float = 10.0
    soak_s: float = 120.0

    def __post_init__(self) -> None:
        if any(not 1 <= number <= 4096 for number in (*self.batches, *self.threads)):
            raise ValueError("`batches` and `threads` must be numbers from 1 to 4096")
        if min(self.budget_s, self.soak_s) < 0.1:
            raise ValueError("`budget_s` and `soak_s` must be at least 0.1 seconds")


@dataclass(frozen=True)
class Plan:
    """Everything that `bench` will do. `bundles` maps the name in the rows to the opened bundle.

    `limits_s` is the most time of each row, `skipped` what was asked for and cannot be measured here.
    """

    bundles: Mapping[str, Bundle]
    limits_s: Mapping[Cell, float]
    workload: Workload
    skipped: tuple[Failure, ...] = ()

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The rows, in the order of the report."""
        return tuple(self.limits_s)

    @property
    def longest_s(self) -> float:
        """The most time that the rows can take, without loading models and measuring memory."""
        return sum(self.limits_s.values())

    @property
    def has_peers(self) -> bool:
        """Whether other tools are measured, too."""
        return any(cell.peer for cell in self.limits_s)

    def is_apart(self, cell: Cell) -> bool:
        """Whether the row has a process of its own: a peer's always, and ours beside peers."""
        return cell.peer is not None or (self.has_peers and cell.scenario not in PEERLESS)

    def rules(self, cell: Cell) -> Rules:
        """When the row has been measured well enough."""
        limit_s = self.limits_s[cell]
        if cell.scenario == "cold-start":
            return replace(COLD_RULES, max_duration_s=limit_s)
        if cell.scenario == "soak":  # one visit without a pause
            return replace(Rules(), visit_s=limit_s, max_duration_s=0.0)
        rules = replace(Rules(), max_duration_s=limit_s, min_duration_s=LEAST_SHARE * limit_s)
        if cell.scenario == "offline":
            return replace(rules, min_samples=OFFLINE_MIN_QUERIES, warmup_samples=1, rewarm_samples=0)
        return rules


def make_plan(paths: Sequence[Path], selections: Sequence[Selection], workload: Workload | None = None) -> Plan:
    """Open the bundles and lay out the rows. Without a workload, the first bundle's golden set is the work of all.

    Raises:
        UsageError: a bundle is given twice, or a selection names a bundle or precision that none has.
        BundleError: a bundle is damaged, or has nothing for a backend.
        UnavailableError: nothing of what was asked for can run here.
    """
    bundles = _open(paths)
    if workload is None:
        workload = golden_workload(next(iter(bundles.values())))
    limits_s: dict[Cell, float] = {}
    skipped: dict[str, Failure] = {}
    first: ClipEdgeError | None = None
    for selection in selections:
        backends = []
        for backend in selection.backends:
            try:
                find_backend(backend)
                backends.append(backend)
            except UnavailableError as problem:
                first = first or problem
                skipped[backend] = Failure(backend, problem.what)
        names = [name for name in bundles if any(fnmatch(name, pattern) for pattern in selection.bundles)]
        before = len(limits_s)
        limits_s |= dict.fromkeys(_cells(selection, bundles, names, backends), selection.budget_s)
        limits_s |= {cell: selection.soak_s for cell in limits_s if cell.scenario == "soak"}
        if len(limits_s) == before and not skipped:
            raise UsageError(
                f"nothing to measure: bundles {', '.join(selection.bundles)}, precisions "
                f"{', '.join(selection.precisions)}",
                hint=f"the bundles here: {', '.join(bundles)}; `clip-edge inspect BUNDLE` lists precisions",
            )
    if not limits_s and first is not None:
        raise first
    return Plan(bundles, limits_s, workload, tuple(skipped.values()))


def _cells(
    selection: Selection, bundles: Mapping[str, Bundle], names: Sequence[str], backends: Sequence[str]
) -> Iterator[Cell]:
    peers = [peer for peer in PEERS if any(fnmatch(peer, pattern) for pattern in selection.peers)]
    engines = [*backends, *(f"{PREFIX}{peer}" for peer in peers)]
    for name, engine, thread, scenario, tower, batch in itertools.product(
        names, engines, selection.threads, selection.scenarios, selection.towers, selection.batches
    ):
        peer = PEERS.get(engine.removeprefix(PREFIX)) if engine.startswith(PREFIX) else None
        if peer and scenario in PEERLESS:
            continue
        if peer:
            found = [peer.precision]
        else:
            backend = find_backend(engine)
            fitting = bundles[name].manifest.fitting(tower, backend.targets)
            found = [precision for precision in fitting if precision not in backend.refuses]
        for precision in found:
            if peer or any(fnmatch(precision, pattern) for pattern in selection.precisions):
                several = 1 if scenario in ALONE else batch
                yield Cell(name, tower, precision, engine, several, thread, scenario)


def golden_workload(bundle: Bundle) -> Workload:
    """The pictures and sentences that the bundle carries to test itself."""
    golden = read_golden(bundle.read(GOLDEN, MAX_GOLDEN_BYTES), bundle.manifest, bundle.folder / GOLDEN)
    return from_pixels(golden.images, golden.texts)


def _open(paths: Sequence[Path]) -> dict[str, Bundle]:
    opened = [Bundle.open(path) for path in paths]
    names = [bundle.manifest.name for bundle in opened]
    if len(set(names)) < len(names):  # two exports of one model: their folders tell them apart
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise UsageError("a bundle is given twice", hint="name each bundle once")
    return dict(zip(names, opened, strict=True))


def settings_of(plan: Plan) -> Settings:
    """How the rows of the plan are measured, as the report will say."""
    work, rules = plan.workload, Rules()
    limits_s = [limit_s for cell, limit_s in plan.limits_s.items() if cell.scenario != "soak"]
    facts = WorkloadFacts(
        source=work.source,
        images=len(work.images),
        texts=len(work.texts),
        mean_image_bytes=round(sum(map(len, work.images)) / len(work.images)),
        sha256=work.sha256,
    )
    return Settings(
        workload=facts,
        timed=TIMED,
        warmup_s=rules.warmup_s,
        min_duration_s=LEAST_SHARE * max(limits_s, default=0.0),
        max_duration_s=max(limits_s, default=0.0),
        min_samples=rules.min_samples,
        precision=rules.precision,
        offline_samples=OFFLINE_SAMPLES,
        reference=identity(),
        own_processes=plan.has_peers,
    )
