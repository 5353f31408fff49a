"""A real Ray cluster on this machine: the same bytes as in one process, also when a worker is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clip_edge.cli import main
from clip_edge.distill.reinforce import ray_engine
from clip_edge.distill.reinforce.engine import Options, Work
from clip_edge.errors import UnavailableError

TASK = "ray::_on_worker"  # how Ray titles the process that runs our task


def command(options: Options, out: Path, *more: str) -> list[str]:
    words = ["reinforce", str(options.data), "--out", str(out), "--augmentations", "3", "--batch-size", "6"]
    words += [word for spec in options.teachers for word in ("--teacher", spec)]
    return [*words, "--captioner", str(options.captioner), "--device", "cpu", *more]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # workers start slowly on a busy machine
def test_a_killed_worker_changes_nothing(options: Options, made: tuple[Work, Path], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "clip_edge.cli", *command(options, tmp_path / "out", "--engine", "ray")],
        stdout=log,
        stderr=log,
        env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_OVERRIDE_RESOURCES": '{"CPU": 1}'},  # one worker does them all
    )
    killed = 0
    driver = psutil.Process(process.pid)
    while process.poll() is None:
        if not killed:
            for child in driver.children(recursive=True):
                if _title(child, psutil).startswith(TASK):
                    child.kill()
                    killed += 1
                    break
        time.sleep(0.1 if killed else 0.05)  # looking at every process costs time too
    log.seek(0)
    assert process.returncode == 0, log.read()
    log.close()
    assert killed == 1
    ours = {path.name: path.read_bytes() for path in (tmp_path / "out" / "train").iterdir()}
    theirs = {path.name: path.read_bytes() for path in (made[1] / "train").iterdir()}
    assert ours == theirs


def _title(process, psutil) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it ended in between
        return ""


def test_missing_ray_is_named(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(command(options, tmp_path / "out", "--engine", "ray", "-q")) == 3
    assert capsys.readouterr().err == (
        "error: --engine ray needs the package ray\n\nhint: pip install 'clip-edge[ray]'\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there_is_named() -> None:
    class Ray:
        @staticmethod
        def init(**_: object) -> None:
            raise ConnectionError("Could not find any running Ray instance at 10.0.0.1:6379.\nmore words")

    with pytest.raises(UnavailableError) as problem:
        ray_engine.connect(Ray, "10.0.0.1:6379")
    assert str(problem.value) == (
        "no Ray cluster at 10.0.0.1:6379: Could not find any running Ray instance at 10.0.0.1:6379.\n\n"
        "hint: start one with `ray start --head`, or leave --ray-address away to use this machine"
    )


def test_paths_mean_the_same_on_a_worker(options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    monkeypatch.chdir(tmp_path)
    Path("teacher").mkdir()
    Path("c.jsonl").touch()
    relative = dataclasses.replace(
        options,
        data=Path("d"),
        out=Path("o"),
        teachers=("open_clip:teacher", "open_clip:RN50:openai"),
        captioner="file:c.jsonl",
    )
    absolute = ray_engine._absolute(relative)
    assert absolute.data == tmp_path / "d"
    assert absolute.out == tmp_path / "o"
    assert absolute.teachers == (f"open_clip:{tmp_path / 'teacher'}", "open_clip:RN50:openai")
    assert absolute.captioner == f"file:{tmp_path / 'c.jsonl'}"
