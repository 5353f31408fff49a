"""report.json is read back exactly, and nothing else is; tables show what varies."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clip_edge.benchmarks.report import Report, Row, read_report, report_dict
from clip_edge.benchmarks.tables import duration, markdown, shared, table
from clip_edge.errors import ArtifactError
from clip_edge.files import write_json

MakeRow, MakeReport = Callable[..., Row], Callable[..., Report]


def test_a_report_is_read_back_as_it_was(tmp_path: Path, make_row: MakeRow, make_report: MakeReport) -> None:
    report = make_report(make_row(1), make_row(2, tower="text", accuracy=None, memory_rss_bytes=None))
    write_json(tmp_path / "report.json", report_dict(report))
    assert read_report(tmp_path) == report
    assert read_report(tmp_path / "report.json") == report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "`schema` must be one of 1; found `2`"),
        ({"enviroment": {}}, "unknown key: `enviroment` (did you mean `environment`?)"),
        ({"results": [{}]}, "missing key: `results"),
    ],
)
def test_what_is_no_report_is_refused(
    change: dict[str, object], message: str, tmp_path: Path, make_row: MakeRow, make_report: MakeReport
) -> None:
    write_json(tmp_path / "report.json", report_dict(make_report(make_row(1))) | change)
    with pytest.raises(ArtifactError) as caught:
        read_report(tmp_path)
    assert message in str(caught.value)


def test_only_what_varies_has_a_column(make_row: MakeRow) -> None:
    rows = [make_row(1), make_row(2, batch=8)]
    columns, cells = table(rows)
    assert columns[:3] == ["tower", ">batch", ">p50"]
    assert [row[:2] for row in cells] == [["image", "1"], ["image", "8"]]
    assert shared(rows) == {
        "bundle": "tiny",
        "precision": "fp32",
        "backend": "onnxruntime",
        "threads": "1",
        "scenario": "single-stream",
    }


def test_markdown_cannot_be_broken_by_names(make_row: MakeRow, make_report: MakeReport) -> None:
    rows = [make_row(1, bundle="a|b\n# c <script>"), make_row(2, bundle="d")]
    lines = markdown(make_report(*rows)).splitlines()
    line = next(line for line in lines if "script" in line)
    assert line.startswith("| a\\|b # c \\<script\\> | image | ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.0, "1.00 s"), (83.2, "83.2 s"), (0.0123, "12.3 ms"), (0.00087, "870 µs"), (4e-8, "40.0 ns"), (None, "–")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_the_report_is_plain_json(make_row: MakeRow, make_report: MakeReport) -> None:
    text = json.dumps(report_dict(make_report(make_row(1))), allow_nan=False)
    assert json.loads(text)["results"][0]["latency_s"]["p50"] > 0
