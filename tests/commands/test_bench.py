"""`clip-edge bench` on a real bundle: rows, reports, refusals and the comparison's exit codes."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clip_edge.benchmarks import runner
from clip_edge.benchmarks.child import Job, Launch
from clip_edge.benchmarks.report import read_report
from clip_edge.cli import main
from clip_edge.errors import ArtifactError

QUICK = ["--budget", "0.3", "-q"]


@pytest.fixture(scope="module")
def measured(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real report: two batches, two scenarios."""
    out = tmp_path_factory.mktemp("bench") / "out"
    words = ["bench", str(tiny_bundle), "--batch", "1,4", "--scenario", "single-stream,cold-start", "--out", str(out)]
    assert main([*words, *QUICK]) == 0
    return out


def test_every_combination_is_a_row_with_samples_stages_and_memory(measured: Path) -> None:
    report = read_report(measured)
    assert [(row.tower, row.batch, row.scenario) for row in report.results] == [
        ("image", 1, "single-stream"),
        ("image", 4, "single-stream"),
        ("text", 1, "single-stream"),
        ("text", 4, "single-stream"),
        ("image", 1, "cold-start"),
        ("text", 1, "cold-start"),
    ]
    stages = {
        ("image", "single-stream"): {"decode", "preprocess", "encode"},
        ("text", "single-stream"): {"tokenise", "encode"},
        ("image", "cold-start"): {"start", "import", "load", "first"},
        ("text", "cold-start"): {"start", "import", "load", "first"},
    }
    for row in report.results:
        assert set(row.stages_s) == stages[row.tower, row.scenario]
        assert 0.3 * row.latency_s.min < sum(row.stages_s.values()) <= 1.01 * row.latency_s.max
        assert row.latency_s.min <= row.latency_s.p50 <= row.latency_s.max
        assert row.memory_rss_bytes is not None
        assert 20e6 < row.memory_rss_bytes < 400e6  # a process with numpy and an engine, without torch
        assert row.accuracy is not None
        assert row.accuracy.passed
        assert row.file_bytes > 1000
    assert report.environment.packages["onnxruntime"] != "not installed"


def test_all_three_files_are_written(measured: Path) -> None:
    assert {file.name for file in measured.iterdir()} == {"report.json", "report.md", "report.html"}
    assert "| image |" in (measured / "report.md").read_text()


def test_ctrl_c_keeps_what_was_measured(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["bench", str(tiny_bundle), "--scenario", "single-stream,soak", "--budget", "0.3", "--soak", "600"]
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs start with it ignored
        "from clip_edge.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *words, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if re.match(r"measuring: \d+/\d+ s in ", line):  # all rows but the soak
                break
        time.sleep(1.0)  # the soak has begun
        process.send_signal(signal.SIGINT)
        table, talk = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: these are the rows that were measured until then" in talk
    assert "single-stream" in table
    report = read_report(out)
    assert report.interrupted
    assert {row.scenario for row in report.results} == {"single-stream", "soak"}
    assert "tiny · text · fp32 · onnxruntime · batch 1 · threads 1 · soak" in [one.row for one in report.failures]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_run_that_is_killed_has_left_its_rows(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clip_edge.benchmarks.runner.KEEP_EVERY_S", 0.0)
    kept = tmp_path / "out.partial.json"

    def killed(*_: object) -> None:
        raise SystemExit(9)

    monkeypatch.setattr("clip_edge.commands.bench.show", killed)
    with pytest.raises(SystemExit):
        main(["bench", str(tiny_bundle), "--out", str(tmp_path / "out"), *QUICK])
    report = read_report(kept)
    assert report.interrupted
    assert [row.tower for row in report.results] == ["image", "text"]
    monkeypatch.undo()
    assert main(["bench", str(tiny_bundle), "--out", str(tmp_path / "out"), *QUICK]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert not read_report(tmp_path / "out").interrupted


def test_a_tower_that_ends_its_process_is_listed_and_the_other_measured(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = runner.launch

    def launch(job: Job, folder: Path) -> Launch:
        if job.images:
            raise ArtifactError("a measuring process ended with exit code -11:\n  it said nothing")
        return real(job, folder)

    monkeypatch.setattr(runner, "launch", launch)
    assert main(["bench", str(tiny_bundle), *QUICK]) == 0
    told = capsys.readouterr().out
    assert (
        "not measured: tiny · image · fp32 · onnxruntime · batch 1 · threads 1 · single-stream: "
        "a measuring process ended with exit code -11:" in told
    )


def test_offline_and_json(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tiny_bundle), "--scenario", "offline", "--json", "-", *QUICK]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    row = told["results"][0]
    assert row["throughput_per_s"] == pytest.approx(64 / row["latency_s"]["p50"])
    assert len(row["samples_s"]) >= 1


def test_streams_and_a_soak(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--scenario", "multi-stream,soak", "--soak", "0.3", "--threads", "1,2", "--out", str(out)]
    assert main(["bench", str(tiny_bundle), *words, *QUICK]) == 0
    rows = read_report(out).results
    assert {(row.threads, row.scenario) for row in rows} == {
        *((threads, scenario) for threads in (1, 2) for scenario in ("multi-stream", "soak"))
    }
    for row in rows:
        assert row.latency_s.jitter > 0
        if row.scenario == "multi-stream":
            assert row.throughput_per_s == pytest.approx(8 / row.latency_s.p50)
            assert row.soak is None
        else:
            assert row.soak is not None
            assert row.soak.points[-1].at_s == pytest.approx(sum(row.samples_s), abs=0.01)
            assert 0.2 < sum(row.samples_s) < 30


def test_a_suite_says_what_is_measured(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text(
        'summary = "two tables"\n[[rows]]\ntowers = ["image"]\nbudget_s = 1\n'
        '[[rows]]\nbundles = ["ti*"]\ntowers = ["text"]\nbatches = [4]\nbudget_s = 2\n'
    )
    assert main(["bench", str(tiny_bundle), "--suite", str(suite), "--dry-run", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(row["tower"], row["batch"]) for row in told["rows"]] == [("image", 1), ("text", 4)]
    assert told["longest_s"] == 3.0


def test_a_peer_that_cannot_run_is_listed_and_the_rest_is_measured(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tiny_bundle), "--peers", "faster-clip", "--json", "-", *QUICK]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["backend"] for row in told["results"]] == ["onnxruntime", "onnxruntime"]
    assert [failure["row"] for failure in told["failures"]] == [
        f"tiny · {tower} · int8 · peer:faster-clip · batch 1 · threads 1 · single-stream" for tower in ("image", "text")
    ]
    assert "whose weights it downloads by itself" in told["failures"][0]["reason"]


def test_an_engine_that_is_not_here_is_skipped_with_the_reason(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", str(tiny_bundle), "--backend", "onnxruntime,coreml", "--dry-run"]
    assert main(words) == 0
    assert "not measured: coreml: backend `coreml` needs" in capsys.readouterr().out
    assert main(["bench", str(tiny_bundle), "--backend", "coreml", "--dry-run"]) == 3


def test_dry_run_measures_nothing(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", str(tiny_bundle), "--batch", "1,8", "--threads", "1,2", "--dry-run", "--json", "-"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["rows"]) == 8
    assert told["longest_s"] == 80.0
    assert not (tmp_path / "out").exists()


def changed(measured: Path, out: Path, factor: float, **environment: object) -> Path:
    """The report with every sample `factor` times as long."""
    report = json.loads((measured / "report.json").read_text())
    report["results"] = report["results"][:1]
    for row in report["results"]:
        row["samples_s"] = [factor * seconds for seconds in row["samples_s"]]
    report["environment"] |= environment
    out.write_text(json.dumps(report))
    return out


def test_a_real_slowdown_is_exit_code_1(measured: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    old = changed(measured, tmp_path / "old.json", 0.02)
    assert main(["bench", str(tiny_bundle), "--compare", str(old), *QUICK]) == 1


def test_a_gain_is_exit_code_0(
    measured: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = changed(measured, tmp_path / "old.json", 50.0)
    assert main(["bench", str(tiny_bundle), "--compare", str(old), *QUICK]) == 0
    assert "× faster" in capsys.readouterr().out


def test_another_machine_is_exit_code_2(
    measured: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = changed(measured, tmp_path / "old.json", 1.0, cpu="Another CPU")
    assert main(["bench", str(tiny_bundle), "--compare", str(old), *QUICK]) == 2
    assert "environment.cpu: `Another CPU` then" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backend", "onnxruntim"], "unknown backend: `onnxruntim`"),
        (["--scenario", "ofline"], "unknown scenario: `ofline`\n\nhint: did you mean `offline`?"),
        (["--batch", "0"], "--batch must be numbers from 1 to 4096, such as 1,8; found `0`"),
        (["--threads", "1,x"], "--threads must be numbers from 1 to 4096, such as 1,8; found `1,x`"),
        (["--budget", "0"], "--budget must be at least 0.1 seconds; found 0"),
        (["--soak", "0"], "--soak must be at least 0.1 seconds; found 0"),
        (["--peers", "openvin"], "unknown peer: `openvin`\n\nhint: did you mean `openvino`?"),
        (["--suite", "quick", "--batch", "2"], "--suite says what is measured: leave out --batch"),
        (["--text", "a"], "--image and --text go together"),
    ],
)
def test_wrong_options_are_exit_code_2(
    words: list[str], message: str, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tiny_bundle), *words]) == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_own_pictures_and_sentences(tiny_bundle: Path, tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "a.png"
    Image.new("RGB", (640, 480), (200, 30, 30)).save(picture)
    out = tmp_path / "out"
    words = ["--image", str(picture), "--text", "a red wall", "一面红墙", "--out", str(out)]
    assert main(["bench", str(tiny_bundle), *words, *QUICK]) == 0
    workload = read_report(out).settings.workload
    assert (workload.source, workload.images, workload.texts) == ("files", 1, 2)


def test_a_picture_that_cannot_be_read_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    words = ["--image", str(tmp_path / "empty.jpg"), "--text", "x", "--out", str(tmp_path / "out")]
    assert main(["bench", str(tiny_bundle), *words, *QUICK]) == 2
    assert not (tmp_path / "out").exists()
