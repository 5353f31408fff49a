"""What the machine can do at most, and the shares of rows, from the numbers to the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from clip_edge.benchmarks import ceilings
from clip_edge.benchmarks.ceilings import share_of
from clip_edge.benchmarks.page import Page, render
from clip_edge.benchmarks.report import Ceiling, Report, Row, read_report
from clip_edge.benchmarks.tables import ceiling_line, markdown, table
from clip_edge.cli import main

CEILING = Ceiling("cpu", "cpu", 1, "torch 2.14", {"float32": 1e11, "bfloat16": 4e11}, 2e10)


def test_the_share_is_of_the_fastest_product_and_of_the_weights_read_once_a_batch(make_row: Callable[..., Row]) -> None:
    row = dataclasses.replace(make_row(1, batch=8), stages_s={"decode": 1.0, "encode": 0.010}, file_bytes=20_000_000)
    share = share_of(row, 100_000_000, CEILING)
    assert share is not None
    assert share.flops == 800_000_000
    assert share.matmul == pytest.approx(800e6 / 0.010 / 4e11)
    assert share.bandwidth == pytest.approx(20e6 / 0.010 / 2e10)
    offline = share_of(dataclasses.replace(row, scenario="offline"), 100_000_000, CEILING)
    assert offline is not None
    assert offline.flops == 64 * 100_000_000
    assert offline.bandwidth == pytest.approx(8 * share.bandwidth)  # 64 pictures in batches of 8


def test_without_a_graph_there_is_no_share(make_row: Callable[..., Row]) -> None:
    assert share_of(make_row(1), None, CEILING) is None


def test_ceilings_that_cannot_be_measured_cost_no_row(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceilings, "PROGRAM", "clip_edge.distill.nothing")
    assert main(["bench", str(tiny_bundle), "--ceilings", "--budget", "0.2", "--out", str(tmp_path / "r")]) == 0
    assert "warning: the ceilings of cpu cannot be measured: " in capsys.readouterr().err
    report = read_report(tmp_path / "r")
    assert [row.share for row in report.results] == [None, None]
    assert any("cannot be measured" in warning for warning in report.warnings)


def test_tables_show_shares_where_there_are_any(
    make_row: Callable[..., Row], make_report: Callable[..., Report]
) -> None:
    row = make_row(1)
    assert "of matmul" not in " ".join(table([row])[0])
    near = dataclasses.replace(row, share=share_of(row, 50_000_000, CEILING))
    columns, cells = table([near, make_row(2, precision="int8")])
    assert columns[-3:] == [">of matmul", ">of bandwidth", "stages"]
    assert cells[0][-3].endswith("%")
    assert cells[1][-3:-1] == ["–", "–"]
    line = "ceilings of cpu, threads 1: matmul float32 100 GFLOP/s, bfloat16 400 GFLOP/s; copies 20.0 GB/s (torch 2.14)"
    assert ceiling_line(CEILING) == line
    report = dataclasses.replace(make_report(near), ceilings=(CEILING,))
    assert "ceilings of cpu" in markdown(report)
    assert line in render(Page(title="t", report=report)).decode()


def test_from_the_command_line(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    assert main(["bench", str(tiny_bundle), "--ceilings", "--budget", "0.2", "--out", str(out)]) == 0
    assert "ceilings of cpu, threads 1: matmul float32 " in capsys.readouterr().out
    report = read_report(out)
    assert [ceiling.threads for ceiling in report.ceilings] == [1]
    for row in report.results:
        assert row.share is not None
        assert 0 < row.share.matmul < 1.5
        assert row.share.bandwidth > 0
