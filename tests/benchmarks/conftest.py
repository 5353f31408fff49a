"""A report made of synthetic samples, for what only reads reports."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from clip_edge.benchmarks import stats
from clip_edge.benchmarks.environment import Environment
from clip_edge.benchmarks.report import Accuracy, Report, Row, Settings, WorkloadFacts

ENVIRONMENT = Environment(
    cpu="Example CPU",
    logical_cores=2,
    usable_cores=2,
    isa=("avx2",),
    architecture="x86_64",
    operating_system="Example OS",
    kernel="1.0",
    memory_bytes=8_000_000_000,
    governor=None,
    max_frequency_hz=None,
    load_average_1min=0.1,
    on_battery=None,
    gpus=(),
    python="3.11.7",
    packages={"clip-edge": "0.1.0", "onnxruntime": "1.32.0"},
    git_revision=None,
)
SETTINGS = Settings(
    workload=WorkloadFacts("files", 4, 4, 30_000, "ab" * 32),
    timed="from bytes to embedding",
    warmup_s=0.2,
    min_duration_s=2.0,
    max_duration_s=10.0,
    min_samples=100,
    precision=0.01,
    offline_samples=64,
)


def make_row(seed: int, factor: float = 1.0, **changes: object) -> Row:
    random = np.random.default_rng(seed)
    samples_s = tuple(factor * 0.004 * (1 + random.gamma(2.0, 0.01, 300)))
    row = Row(
        bundle="tiny",
        tower="image",
        precision="fp32",
        backend="onnxruntime",
        batch=1,
        threads=1,
        scenario="single-stream",
        latency_s=stats.summarise(samples_s),
        samples_s=samples_s,
        outliers=0,
        throughput_per_s=250.0,
        stages_s={"decode": 0.0005, "preprocess": 0.0006, "encode": 0.0029},
        memory_rss_bytes=90_000_000,
        file_bytes=17_000_000,
        accuracy=Accuracy(0.99999, 0.9999, True),
    )
    return dataclasses.replace(row, **changes)  # type: ignore[arg-type]


def make_report(*rows: Row, **changes: object) -> Report:
    report = Report(
        schema=1,
        created_by="clip-edge 0.1.0",
        created_at="2026-01-01T00:00:00+00:00",
        settings=SETTINGS,
        environment=ENVIRONMENT,
        bundles=dict.fromkeys(dict.fromkeys(row.bundle for row in rows), "cd" * 32),
        results=rows,
    )
    return dataclasses.replace(report, **changes)  # type: ignore[arg-type]


@pytest.fixture(name="make_row")
def fixture_make_row() -> Callable[..., Row]:
    return make_row


@pytest.fixture(name="make_report")
def fixture_make_report() -> Callable[..., Report]:
    return make_report
