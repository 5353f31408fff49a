"""A report measured in several goes."""

import time
from pathlib import Path

import pytest

from clip_edge.benchmarks.collect import merged
from clip_edge.benchmarks.in_parts import measure_parts


def test_parts_that_are_there_stay_and_late_ones_wait(
    tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    missing, parts, options = tmp_path / "missing", tmp_path / "parts", ["--budget", "0.1"]
    assert measure_parts([tiny_bundle], parts, options, time.monotonic() - 1) == []
    now_s = time.monotonic()
    assert measure_parts([missing, tiny_bundle], parts, options, now_s + 60) == [parts / tiny_bundle.name]
    assert "missing: ended with exit code 2" in capfd.readouterr().err
    before = (parts / tiny_bundle.name / "report.json").read_bytes()
    found = measure_parts([tiny_bundle], parts, options, now_s + 60)
    assert (found[0] / "report.json").read_bytes() == before
    assert len(merged(found).results) == 2
