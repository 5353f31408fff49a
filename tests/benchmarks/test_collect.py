"""Parts of a report put together, and parts that do not belong together."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from clip_edge.benchmarks.collect import merged
from clip_edge.benchmarks.report import Failure, Report, Row, report_dict
from clip_edge.errors import UsageError
from clip_edge.files import write_json

Make = Callable[..., Report]


def written(folder: Path, name: str, report: Report) -> Path:
    write_json(folder / name, report_dict(report))
    return folder / name


def test_rows_failures_and_warnings_of_all(make_report: Make, make_row: Callable[..., Row], tmp_path: Path) -> None:
    failure = Failure("peer:x", "hangs")
    parts = [
        written(tmp_path, "a.json", make_report(make_row(1), make_row(2, batch=8), failures=(failure,))),
        written(tmp_path, "b.json", make_report(make_row(3), make_row(4, bundle="other"), failures=(failure,))),
    ]
    found = merged(parts)
    assert [(row.bundle, row.batch) for row in found.results] == [("tiny", 1), ("tiny", 8), ("other", 1)]
    assert found.results[0] == make_row(3)  # the last wins
    assert found.failures == (failure,)
    assert set(found.bundles) == {"tiny", "other"}


def test_parts_of_unlike_machines_or_bundles_are_refused(
    make_report: Make, make_row: Callable[..., Row], tmp_path: Path
) -> None:
    report = make_report(make_row(1))
    part = written(tmp_path, "a.json", report)
    environment = dataclasses.replace(report.environment, cpu="Another CPU")
    other = written(tmp_path, "b.json", dataclasses.replace(report, environment=environment))
    with pytest.raises(UsageError, match=r"environment\.cpu"):
        merged([part, other])
    changed = written(tmp_path, "c.json", dataclasses.replace(report, bundles={"tiny": "ef" * 32}))
    with pytest.raises(UsageError, match="two different bundles are called `tiny`"):
        merged([part, changed])
    with pytest.raises(UsageError, match="no reports"):
        merged([])
