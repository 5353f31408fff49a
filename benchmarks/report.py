"""report.json: what was measured, where, with which settings, and every raw sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clip_edge.benchmarks.environment import Environment
from clip_edge.benchmarks.scenarios import Scenario
from clip_edge.benchmarks.soak import Soak
from clip_edge.benchmarks.stats import Comparison, Summary
from clip_edge.bundle import Tower
from clip_edge.errors import ArtifactError
from clip_edge.files import read_json
from clip_edge.schema import as_dict, build


@dataclass(frozen=True)
class WorkloadFacts:
    """What the pictures and sentences were; `sha256` covers all of their bytes."""

    source: str
    images: int
    texts: int
    mean_image_bytes: int
    sha256: str


@dataclass(frozen=True)
class Settings:
    """How it was measured. `timed` says where the clock starts and stops."""

    workload: WorkloadFacts
    timed: str
    warmup_s: float
    min_duration_s: float
    max_duration_s: float
    min_samples: int
    precision: float
    offline_samples: int
    own_processes: bool = False  # rows of ours had a process each, as those of peers have
    reference: str = ""  # the load between the queries, see `benchmarks.reference`; empty: none was run


@dataclass(frozen=True)
class Accuracy:
    """How far this artifact is from the trained model, in the engine of the row."""

    min_cosine: float
    tolerance: float
    passed: bool


@dataclass(frozen=True)
class Ceiling:
    """The most that a device can do, measured: the fastest matrix products and copies of `engine`.

    `kind` is cpu or cuda; bytes are counted when they are read and when they are written.
    """

    kind: str
    name: str
    threads: int
    engine: str
    matmul_flops_per_s: dict[str, float]
    copy_bytes_per_s: float


@dataclass(frozen=True)
class Share:
    """How near the stage `encode` of a row comes to its device's ceilings: `flops` of a query, of the fastest `matmul`;
    its weights, of the `bandwidth`."""

    flops: int
    matmul: float
    bandwidth: float


@dataclass(frozen=True)
class Row:
    """One measured combination. `samples_s` are the raw query times in order, `stages_s` those of the middle half."""

    bundle: str
    tower: Tower
    precision: str
    backend: str
    batch: int
    threads: int
    scenario: Scenario
    latency_s: Summary
    samples_s: tuple[float, ...]
    outliers: int
    throughput_per_s: float
    stages_s: dict[str, float]
    memory_rss_bytes: int | None
    file_bytes: int
    accuracy: Accuracy | None
    energy_j: float | None = None  # of one picture or sentence; None: nothing here counts joules
    soak: Soak | None = None
    reference_s: tuple[float, ...] = ()  # the reference load beside the queries, in order
    share: Share | None = None  # None: no ceilings were measured
    device: str = ""  # another machine than the one that wrote the report; `devices` says what it is

    @property
    def key(self) -> tuple[str, ...]:
        """What makes this row the same row in another report."""
        return (
            *(self.bundle, self.tower, self.precision, self.backend),
            *(f"batch {self.batch}", f"threads {self.threads}", self.scenario),
            *((self.device,) if self.device else ()),
        )


@dataclass(frozen=True)
class RowChange:
    """One row, new against old."""

    row: str
    change: Comparison


@dataclass(frozen=True)
class Device:
    """Another machine, in its own words, before and after: system, clocks, governor, temperature, power mode."""

    before: dict[str, str]
    after: dict[str, str]


@dataclass(frozen=True)
class Failure:
    """A row that was wanted and could not be measured, or not to its end, and why, in words."""

    row: str
    reason: str


@dataclass(frozen=True)
class Report:
    """The file report.json. `compare` holds the rows that an older report had too, `failures` those without figures."""

    schema: Literal[1]
    created_by: str
    created_at: str
    settings: Settings
    environment: Environment
    bundles: dict[str, str]  # name in the rows -> SHA-256 of its manifest
    results: tuple[Row, ...]
    warnings: tuple[str, ...] = ()
    compare: tuple[RowChange, ...] = ()
    failures: tuple[Failure, ...] = ()
    devices: dict[str, Device] = field(default_factory=dict)
    ceilings: tuple[Ceiling, ...] = ()
    interrupted: bool = False  # the run was ended before every row was finished


def read_report(path: Path) -> Report:
    """The report in `path`, which may be the file or its folder.

    Raises:
        ArtifactError: missing, not JSON, or not a report of schema 1.
    """
    file = path / "report.json" if path.is_dir() else path
    hint = "reports are written by `clip-edge bench --out`"
    return build(Report, read_json(file, hint=hint), where=file, error=ArtifactError, hint=hint)


def report_dict(report: Report) -> dict[str, object]:
    """The report as the JSON object that `read_report` reads back."""
    return as_dict(report)
