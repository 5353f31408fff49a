"""The measuring process: what its parent sees, however late it looks, and what is said when it fails."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from clip_edge.benchmarks import child
from clip_edge.benchmarks.child import Job, launch
from clip_edge.errors import ArtifactError

JOB = Job(bundle="bundle", backend="onnxruntime", precision="fp32", threads=1, images=(), texts=("a",), calls=1)


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """An interpreter that runs `body` instead of the measuring module."""
    script = folder / "python"
    script.write_text(f"#!{sys.executable}\nimport sys, time\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setattr(child.sys, "executable", str(script))


def test_both_lines_at_once_are_both_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the parent wakes when the child has ended: nothing of what it wrote may be lost."""
    lines = r"""sys.stdout.write('{"import": 0.001, "load": 0.002}\n{"peak_rss_bytes": 5}\n')"""
    stand_in(tmp_path, monkeypatch, lines)
    found = launch(JOB, tmp_path)
    assert found.peak_rss_bytes == 5
    assert set(found.stages_s) == {"start", "import", "load"}
    assert sum(found.stages_s.values()) == pytest.approx(found.first_embedding_s)


def test_the_clock_stops_at_the_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "print('{}', flush=True); time.sleep(1.0); print('{\"peak_rss_bytes\": 5}')"
    stand_in(tmp_path, monkeypatch, body)
    started_s = time.perf_counter()
    found = launch(JOB, tmp_path)
    assert time.perf_counter() - started_s - found.first_embedding_s >= 1.0


def test_a_failed_process_gives_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "sys.stderr.write('x' * 200_000 + '\\nthe engine is broken\\n'); sys.exit(7)")
    with pytest.raises(ArtifactError, match=r"ended with exit code 7:\n(.*\n)* *the engine is broken"):
        launch(JOB, tmp_path)


MEASURE = """
import os
from clip_edge.benchmarks.child import peak_rss_bytes
before = peak_rss_bytes()
block = bytearray(os.urandom(1) * 80_000_000)
grown = peak_rss_bytes()
del block
print(before, grown, peak_rss_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_peak_memory_is_of_this_process_and_keeps_the_peak() -> None:
    """In a process of its own: the one that runs the tests may have held large models before."""
    printed = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True).stdout
    before, grown, after = map(int, printed.split())
    assert grown - before >= 70e6
    assert after >= grown
    assert 10e6 < before < 1e9, "bytes, not kilobytes or pages"
