"""Peers beside our own rows in one run: open_clip in processes of its own."""

import sys
from pathlib import Path
from typing import Any

import pytest

from clip_edge.benchmarks.peers import rows
from clip_edge.benchmarks.peers.client import PeerProcess, Usage
from clip_edge.benchmarks.report import Report, read_report
from clip_edge.benchmarks.scenarios import Timing
from clip_edge.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This environment has open_clip: none is made for it."""
    monkeypatch.setattr(rows, "python_of", lambda name: Path(sys.executable))


def run(bundle: Path, out: Path) -> Report:
    assert main(["bench", str(bundle), "--peers", "open_clip", "--budget", "0.5", "-q", "--out", str(out)]) == 0
    return read_report(out)


def test_a_peer_that_is_killed_keeps_its_samples_and_the_rest_goes_on(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = PeerProcess.query, 0

    def query(self: PeerProcess, count: int) -> Timing:
        nonlocal asked
        asked += self.name == "open_clip"
        if (
            asked == 200 and self.name == "open_clip"
        ):  # within the first visit of the image tower: 100 to warm up, and more
            self._process.kill()
        return real(self, count)

    monkeypatch.setattr(PeerProcess, "query", query)
    report = run(bundle, tmp_path / "out")
    found = {(row.backend, row.tower): row for row in report.results}
    assert set(found) == {(name, tower) for name in ("onnxruntime", "peer:open_clip") for tower in ("image", "text")}
    killed = found["peer:open_clip", "image"]
    assert 0 < len(killed.samples_s) < 200
    assert killed.memory_rss_bytes is None
    assert len(found["onnxruntime", "image"].samples_s) > len(killed.samples_s)
    (failure,) = report.failures
    assert "image · fp32 · peer:open_clip" in failure.row
    assert failure.reason.startswith("`open_clip` ended with exit code -9: ")
    assert failure.reason.endswith(f" (after {len(killed.samples_s)} samples)")


def test_ours_has_a_process_of_its_own_too(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    real = PeerProcess.__init__

    def start(self: PeerProcess, name: str, *rest: Any, **further: Any) -> None:
        started.append(name)
        real(self, name, *rest, **further)

    monkeypatch.setattr(PeerProcess, "__init__", start)
    report = run(bundle, tmp_path / "out")
    assert sorted(started) == ["onnxruntime fp32"] * 2 + ["open_clip"] * 2
    assert report.settings.own_processes
    ours = {row.tower: row for row in report.results if row.backend == "onnxruntime"}
    assert set(ours["image"].stages_s) == {"decode", "preprocess", "encode"}
    assert set(ours["text"].stages_s) == {"tokenise", "encode"}
    for row in ours.values():
        assert row.memory_rss_bytes is not None
        assert row.accuracy is not None
        assert row.accuracy.passed
        assert abs(sum(row.stages_s.values()) / row.latency_s.p50 - 1) < 0.5


def test_a_peer_that_takes_more_cores_than_it_was_given_is_named(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PeerProcess.usage

    def usage(self: PeerProcess) -> Usage:
        found = real(self)
        assert found.cores < rows.MORE_CORES
        return Usage(found.peak_rss_bytes, 1.94) if self.name == "open_clip" else found

    monkeypatch.setattr(PeerProcess, "usage", usage)
    told = [warning for warning in run(bundle, tmp_path / "out").warnings if "cores busy" in warning]
    assert [warning.split(" · ")[1] for warning in told] == ["image", "text"]
    assert all(warning.endswith("keeps 1.9 cores busy, whatever its number of threads says") for warning in told)
