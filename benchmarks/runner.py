"""Bundles x backends x batches x threads x scenarios -> rows of one report, measured side by side."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from clip_edge import __version__
from clip_edge.benchmarks import stats
from clip_edge.benchmarks.child import Job, launch
from clip_edge.benchmarks.environment import read_environment
from clip_edge.benchmarks.environment import warnings as environment_warnings
from clip_edge.benchmarks.report import Accuracy, Report, Row, Settings, WorkloadFacts
from clip_edge.benchmarks.scenarios import COLD_RULES, Rules, Sampler, Scenario, Timing, sample_in_turns, timed
from clip_edge.benchmarks.workload import Workload, from_pixels
from clip_edge.bundle import GOLDEN, TOWERS, Artifact, Bundle, Tower
from clip_edge.console import SILENT, Console
from clip_edge.errors import UsageError
from clip_edge.golden import MAX_GOLDEN_BYTES, read_golden
from clip_edge.runtime import load
from clip_edge.runtime.backends import BACKENDS, find_backend
from clip_edge.runtime.model import Model

OFFLINE_SAMPLES = 64  # handed over at once; enough that the last, smaller batch does not count
OFFLINE_MIN_QUERIES = 10
OUTLIERS_SHARE = 0.1  # a long tail has some; more than a tenth is another program
MEMORY_CALLS = 3  # after the third call the arenas of the engine have grown to their size

T = TypeVar("T")
TIMED = (
    "single-stream and offline: from encoded picture bytes or a sentence to the embedding, model loaded; "
    "cold-start: from process launch to the first embedding, files in the page cache"
)


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


@dataclass(frozen=True)
class Plan:
    """Everything that `bench` will do. `bundles` maps the name in the rows to the opened bundle."""

    bundles: Mapping[str, Bundle]
    cells: tuple[Cell, ...]
    workload: Workload
    rules: Rules
    cold_rules: Rules

    @property
    def longest_s(self) -> float:
        """The most time that the rows can take, without loading models and measuring memory."""
        return sum(self._rules(cell).max_duration_s for cell in self.cells)

    def _rules(self, cell: Cell) -> Rules:
        return self.cold_rules if cell.scenario == "cold-start" else self.rules


def make_plan(
    paths: Sequence[Path],
    *,
    backends: Sequence[str],
    batches: Sequence[int],
    threads: Sequence[int],
    scenarios: Sequence[Scenario],
    workload: Workload | None = None,
    budget_s: float = 10.0,
) -> Plan:
    """Open the bundles and lay out the rows: both towers, every precision in the bundle.

    Without a workload, the first bundle's golden set is the work of all.

    Cold starts are measured with one picture or sentence whatever the batches: a first answer is wanted.

    Raises:
        UsageError: a bundle is given twice.
        BundleError: a bundle is damaged.
    """
    bundles = _open(paths)
    if workload is None:
        workload = golden_workload(next(iter(bundles.values())))
    cells: dict[Cell, None] = {}
    for name, backend, thread, scenario, tower, batch in itertools.product(
        bundles, backends, threads, scenarios, TOWERS, batches
    ):
        several = 1 if scenario == "cold-start" else batch
        for precision in _precisions(bundles[name], tower, backend):
            cells[Cell(name, tower, precision, backend, several, thread, scenario)] = None
    rules = replace(Rules(), max_duration_s=budget_s, min_duration_s=min(Rules.min_duration_s, budget_s / 4))
    return Plan(bundles, tuple(cells), workload, rules, replace(COLD_RULES, max_duration_s=budget_s))


def _precisions(bundle: Bundle, tower: Tower, backend: str) -> list[str]:
    return list(bundle.manifest.fitting(tower, find_backend(backend).targets))


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


def measure(plan: Plan, console: Console = SILENT) -> Report:
    """Measure every row of the plan."""
    environment = read_environment()
    noted = environment_warnings(environment)
    with tempfile.TemporaryDirectory(prefix="clip-edge-bench-") as temporary:
        folder = Path(temporary)
        files = _write_images(plan.workload, folder)
        memory = _measure_memory(plan, files, folder, console)
        models = _load(plan)
        samplers = {cell: _sampler(cell, plan, models, files, folder) for cell in plan.cells}
        sample_in_turns(list(samplers.values()), console, "measuring")
    rows = tuple(_row(cell, sampler, plan.bundles[cell.bundle], memory) for cell, sampler in samplers.items())
    return Report(
        schema=1,
        created_by=f"clip-edge {__version__}",
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=settings_of(plan),
        environment=environment,
        bundles={name: bundle.manifest.manifest_sha256 for name, bundle in plan.bundles.items()},
        results=rows,
        warnings=(*noted, *_row_warnings(rows, plan)),
    )


Loaded = tuple[str, Tower, str, str, int]  # what the rows that use one loaded model have in common


def _loaded(cell: Cell) -> Loaded:
    return cell.bundle, cell.tower, cell.precision, cell.backend, cell.threads


def _load(plan: Plan) -> dict[Loaded, Model]:
    cells = {_loaded(cell): cell for cell in plan.cells if cell.scenario != "cold-start"}
    return {
        key: load(
            plan.bundles[cell.bundle].folder,
            cell.backend,
            threads=cell.threads,
            precision=cell.precision,
            towers=[cell.tower],
        )
        for key, cell in cells.items()
    }


def settings_of(plan: Plan) -> Settings:
    """How the rows of the plan are measured, as the report will say."""
    work, rules = plan.workload, plan.rules
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
        min_duration_s=rules.min_duration_s,
        max_duration_s=rules.max_duration_s,
        min_samples=rules.min_samples,
        precision=rules.precision,
        offline_samples=OFFLINE_SAMPLES,
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


def _measure_memory(plan: Plan, files: Sequence[str], folder: Path, console: Console) -> dict[Cell, int]:
    """Peak memory per row, each in a process of its own; scenarios with a loaded model share one figure."""
    like = {
        cell: cell if cell.scenario == "cold-start" else replace(cell, scenario="single-stream") for cell in plan.cells
    }
    peaks: dict[Cell, int] = {}
    with console.progress("memory", len(set(like.values())), "processes") as meter:
        for cell in dict.fromkeys(like.values()):
            calls = 1 if cell.scenario == "cold-start" else MEMORY_CALLS
            peaks[cell] = launch(_job(cell, plan, files, calls), folder).peak_rss_bytes
            meter.advance()
    return {cell: peaks[same] for cell, same in like.items()}


def _sampler(cell: Cell, plan: Plan, models: Mapping[Loaded, Model], files: Sequence[str], folder: Path) -> Sampler:
    if cell.scenario == "cold-start":
        job = _job(cell, plan, files, calls=1)
        return Sampler(lambda: _cold_start(job, folder), plan.cold_rules)
    model = models[_loaded(cell)]
    if cell.scenario == "single-stream":
        return Sampler(timed(_embed(model, cell, plan.workload, cell.batch)), plan.rules)
    rules = replace(plan.rules, min_samples=OFFLINE_MIN_QUERIES, warmup_samples=1, rewarm_samples=0)
    return Sampler(timed(_embed(model, cell, plan.workload, OFFLINE_SAMPLES)), rules)


def _cold_start(job: Job, folder: Path) -> Timing:
    launched = launch(job, folder)
    return Timing(launched.first_embedding_s, launched.stages_s)


def _embed(model: Model, cell: Cell, workload: Workload, count: int) -> Callable[[], Mapping[str, float]]:
    """Embeds `count` pictures or sentences, the next ones every time, in batches; returns the stages."""
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


def _row(cell: Cell, sampler: Sampler, bundle: Bundle, memory: Mapping[Cell, int]) -> Row:
    artifact = bundle.manifest.artifact(cell.tower, BACKENDS[cell.backend].targets, cell.precision)
    samples_s = tuple(round(seconds, 9) for seconds in sampler.samples_s)
    per_query = OFFLINE_SAMPLES if cell.scenario == "offline" else cell.batch
    latency = stats.summarise(samples_s)
    return Row(
        **vars(cell),
        latency_s=latency,
        samples_s=samples_s,
        outliers=len(stats.outliers(samples_s)),
        throughput_per_s=per_query / latency.p50,
        stages_s=stats.typical_stages(samples_s, sampler.stages_s),
        memory_rss_bytes=memory[cell],
        file_bytes=bundle.manifest.files[artifact.path].bytes,
        accuracy=_accuracy(artifact),
    )


def _accuracy(artifact: Artifact) -> Accuracy | None:
    found = artifact.verification
    if found is None:
        return None
    return Accuracy(found.min_cosine, found.tolerance, found.min_cosine >= found.tolerance)


def _row_warnings(rows: Sequence[Row], plan: Plan) -> list[str]:
    """What about the samples makes rows doubtful: how many rows, the worst of them, and the next thing to do."""
    crowded = [(row.outliers / len(row.samples_s), _row_name(row)) for row in rows]
    crowded = [pair for pair in crowded if pair[0] > OUTLIERS_SHARE]
    vague = [(_uncertainty(row), _row_name(row)) for row in rows if _uncertainty(row) > 2 * _wanted(row, plan)]
    found = []
    if crowded:
        share, name = max(crowded)
        found.append(
            f"many outliers in {len(crowded)} of {len(rows)} rows, up to {share:.0%} of the samples "
            f"({name}): is something else running?"
        )
    if vague:
        width, name = max(vague)
        found.append(
            f"the median is not known well in {len(vague)} of {len(rows)} rows, to ±{width:.1%} at worst "
            f"({name}): give them more time with --budget"
        )
    return found


def _uncertainty(row: Row) -> float:
    return (row.latency_s.p50_high - row.latency_s.p50_low) / 2 / row.latency_s.p50


def _wanted(row: Row, plan: Plan) -> float:
    return (plan.cold_rules if row.scenario == "cold-start" else plan.rules).precision


def _row_name(row: Row) -> str:
    return " · ".join(row.key)
