"""From samples to the rows of a report, and to what about them should be doubted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from clip_edge.benchmarks import stats
from clip_edge.benchmarks.plan import Cell
from clip_edge.benchmarks.report import Accuracy, Row
from clip_edge.benchmarks.scenarios import COLD_RULES, Rules, Sampler
from clip_edge.benchmarks.soak import summarise_soak
from clip_edge.bundle import GOLDEN, Artifact, Bundle
from clip_edge.files import human_bytes
from clip_edge.golden import MAX_GOLDEN_BYTES, read_golden
from clip_edge.runtime.backends import BACKENDS, DEFAULT, Options
from clip_edge.runtime.verify import check_tower

OUTLIERS_SHARE = 0.1  # a long tail has some; more than a tenth is another program


def own_row(cell: Cell, sampler: Sampler, bundle: Bundle, memory_bytes: int | None, accuracy: Accuracy | None) -> Row:
    """The row of a backend of ours, whose file is in the bundle."""
    return make_row(cell, sampler, memory_bytes, bundle.manifest.size_bytes(_artifact(cell, bundle).path), accuracy)


def accuracy_of(cell: Cell, bundle: Bundle) -> Accuracy | None:
    """How near the embeddings of a row are: what the manifest says of ONNX Runtime, which made the proof; of other
    backends, what they give here, on the bundle's golden set.

    Raises:
        BundleError, UnavailableError: the engine cannot run it.
    """
    artifact = _artifact(cell, bundle)
    if cell.backend != DEFAULT:
        golden = read_golden(bundle.read(GOLDEN, MAX_GOLDEN_BYTES), bundle.manifest, bundle.folder / GOLDEN)
        here, _ = check_tower(cell.backend, bundle, artifact, golden, Options(cell.threads))
        return Accuracy(here.min_cosine, here.tolerance, here.passed)
    proof = artifact.verification
    return None if proof is None else Accuracy(proof.min_cosine, proof.tolerance, proof.min_cosine >= proof.tolerance)


def _artifact(cell: Cell, bundle: Bundle) -> Artifact:
    return bundle.manifest.artifact(cell.tower, BACKENDS[cell.backend].targets, cell.precision)


def make_row(cell: Cell, sampler: Sampler, memory_bytes: int | None, file_bytes: int, accuracy: Accuracy | None) -> Row:
    """The row of a sampler that has at least one sample."""
    samples_s = tuple(round(seconds, 9) for seconds in sampler.samples_s)
    stages_s = stats.typical_stages(samples_s, sampler.stages_s)
    row = row_of(cell, samples_s, stages_s, memory_bytes, file_bytes, accuracy)
    return replace(
        row,
        energy_j=None if sampler.meter is None else sampler.energy_j / (len(samples_s) * cell.items),
        soak=None if sampler.watch is None else summarise_soak(samples_s, sampler.watch.states),
        reference_s=tuple(round(seconds, 9) for seconds in sampler.reference_s),
    )


def row_of(
    cell: Cell,
    samples_s: tuple[float, ...],
    stages_s: dict[str, float],
    memory_bytes: int | None,
    file_bytes: int,
    accuracy: Accuracy | None,
) -> Row:
    """What follows from the samples of a cell, wherever they were taken."""
    latency = stats.summarise(samples_s)
    return Row(
        **vars(cell),
        latency_s=latency,
        samples_s=samples_s,
        outliers=len(stats.outliers(samples_s)),
        throughput_per_s=cell.items / latency.p50,
        stages_s=stages_s,
        memory_rss_bytes=memory_bytes,
        file_bytes=file_bytes,
        accuracy=accuracy,
    )


def row_warnings(rows: Sequence[Row]) -> list[str]:
    """What about the samples makes rows doubtful: how many rows, the worst of them, and the next thing to do."""
    crowded = [(row.outliers / len(row.samples_s), _name(row)) for row in rows]
    crowded = [pair for pair in crowded if pair[0] > OUTLIERS_SHARE]
    vague = [(_uncertainty(row), _name(row)) for row in rows if _uncertainty(row) > 2 * _wanted(row)]
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
    return found + [warning for row in rows for warning in _soak_warnings(row)] + _wrong(rows) + speed_gate(rows)


def _wrong(rows: Sequence[Row]) -> list[str]:
    """Rows of ours that are fast at something else than the model; those of peers are judged when they start."""
    found = []
    for row in rows:
        if row.accuracy is not None and not row.accuracy.passed and row.backend in BACKENDS:
            near = f"a cosine of {row.accuracy.min_cosine:.6f}, at least {row.accuracy.tolerance} expected"
            found.append(f"{_name(row)} gives other embeddings: {near}; use another precision or backend")
    return found


def speed_gate(rows: Sequence[Row]) -> list[str]:
    """Each lower precision that is not quicker than fp32 beside it, or may not be: it saves bytes, and nothing else."""
    full = {_beside(row): row for row in rows if row.precision == "fp32"}
    found = []
    for row in rows:
        whole = full.get(_beside(row))
        if whole is None or row is whole or row.scenario == "cold-start":
            continue
        change = stats.compare(whole.samples_s, row.samples_s)
        sizes = f"{human_bytes(row.file_bytes)} instead of {human_bytes(whole.file_bytes)}"
        told = f"{change.ratio:.2f} of its time, in {sizes}"
        if change.ratio >= 1 - stats.MARGIN:
            found.append(f"{_name(row)} is not quicker than fp32 here: {told}")
        elif change.verdict != "faster":
            found.append(f"the samples do not tell whether {_name(row)} is quicker than fp32 here: {told}")
    return found


def _beside(row: Row) -> tuple[object, ...]:
    """What two rows share that differ in their precision alone."""
    return row.bundle, row.tower, row.backend, row.batch, row.threads, row.scenario, row.device


def _soak_warnings(row: Row) -> list[str]:
    if row.soak is None or row.soak.verdict != "slower":
        return []
    hot = [point.temperature_c for point in row.soak.points if point.temperature_c is not None]
    heat = f", at up to {max(hot):.0f} °C" if hot else ""
    grown = row.soak.rss_growth_bytes
    memory = "" if grown is None else f"; memory changed by {human_bytes(abs(grown))}"
    return [f"{_name(row)} ended {row.soak.slowdown:.2f} × as slow as it began{heat}{memory}"]


def _uncertainty(row: Row) -> float:
    return (row.latency_s.p50_high - row.latency_s.p50_low) / 2 / row.latency_s.p50


def _wanted(row: Row) -> float:
    return (COLD_RULES if row.scenario == "cold-start" else Rules()).precision


def _name(row: Row) -> str:
    return " · ".join(row.key)
