"""ssh against a real sshd: rows of the native tool, and what remains when connection, disk or tool fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clip_edge.benchmarks.devices import open_device
from clip_edge.benchmarks.devices.remote import Program, Remote
from clip_edge.benchmarks.devices.rows import DeviceRun
from clip_edge.benchmarks.devices.shell import DeviceError
from clip_edge.benchmarks.plan import Plan, Selection, make_plan
from clip_edge.benchmarks.report import read_report
from clip_edge.cli import main
from clip_edge.console import SILENT
from clip_edge.errors import ArtifactError, UsageError

from .conftest import ROOT, Sshd

ROW = {"samples_s": [0.01, 0.02, 0.03], "stages_s": {"decode": 0.0, "prepare": 0.001, "encode": 0.01}}
ANSWER = json.dumps({"memory_rss_bytes": 1000, "results": [ROW | {"tower": "image"}, ROW | {"tower": "text"}]})
# Finds the word after --json; verify has nothing to say.
TOOL = f"""
while [ $# -gt 0 ]; do [ "$1" = --json ] && out=$2; [ "$1" = verify ] && verify=1; shift; done
if [ -n "$verify" ]; then echo '{{"towers": []}}' >$out; exit 0; fi
EXTRA
echo '{ANSWER}' >$out
"""


def tool(extra: str = "") -> str:
    return TOOL.replace("EXTRA", extra)


def plan_of(bundle: Path, **changes: object) -> Plan:
    return make_plan([bundle], [Selection(budget_s=0.2, **changes)])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def two_precisions(tiny_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from clip_edge.export.exporter import Request, export

    out = tmp_path_factory.mktemp("bundle") / "two"
    export(tiny_student, [Request("onnx"), Request("onnx", "fp16")], out)
    return out


@pytest.mark.slow
def test_the_native_tool_is_copied_run_and_fetched(sshd: Sshd, host_program: Program, tiny_bundle: Path) -> None:
    plan = plan_of(tiny_bundle, threads=(1, 2))
    run = DeviceRun(Remote(open_device(sshd.url), host_program), plan)
    run.measure(SILENT)
    assert run.failures == []
    assert [(cell.tower, cell.threads) for cell in run.rows] == [("image", 1), ("text", 1), ("image", 2), ("text", 2)]
    for row in run.rows.values():
        assert row.device == run.name
        assert row.backend == "native"
        assert len(row.samples_s) >= 1
        assert row.accuracy is not None
        assert row.accuracy.passed
        assert "Linux" in run.device().before["system"]
    assert list((sshd.folder / "device").iterdir()) == []  # nothing of ours stays


@pytest.mark.slow
def test_an_arm_device_under_emulation(sshd: Sshd, tiny_bundle: Path, tmp_path: Path) -> None:
    """The whole command: the report has a row and the facts of a device that is no machine like this one."""
    libraries, qemu = ROOT / "build" / "aarch64-libraries", shutil.which("qemu-aarch64")
    if shutil.which("aarch64-linux-gnu-g++") is None or qemu is None or not libraries.is_dir():
        pytest.skip("needs g++-aarch64-linux-gnu, qemu-user and scripts/device-libraries")
    for command in (["--preset", "aarch64"], ["--build", "--preset", "aarch64", "--target", "clip-edge-cli", "-j2"]):
        done = subprocess.run(["cmake", *command], capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
    emulator = f"{qemu} -L /usr/aarch64-linux-gnu"
    words = ["--device", sshd.url, "--program", str(ROOT / "build" / "aarch64"), str(libraries), "--emulator", emulator]
    out = tmp_path / "out"
    assert main(["bench", str(tiny_bundle), *words, "--budget", "0.3", "--out", str(out), "-q"]) == 0
    report = read_report(out)
    assert [(row.tower, row.backend) for row in report.results] == [("image", "native"), ("text", "native")]
    assert all(row.device in report.devices for row in report.results)
    assert all(row.accuracy is not None and row.accuracy.passed for row in report.results)
    assert "native" in (out / "report.md").read_text()


@pytest.mark.parametrize("when", ["*/bin", "*/measuring"])
def test_the_connection_is_cut_and_comes_back(
    when: str, sshd: Sshd, stand_in: Callable[[str], Program], two_precisions: Path
) -> None:
    """Copying goes on afterwards; a row goes on without us and is fetched."""
    program = stand_in(tool("touch measuring; sleep 2"))
    run = DeviceRun(Remote(open_device(sshd.url), program), plan_of(two_precisions, precisions=("fp32",)))

    def cut() -> None:
        end_s = time.monotonic() + 60
        while not list((sshd.folder / "device").glob(when)) and time.monotonic() < end_s:
            time.sleep(0.02)
        sshd.stop()
        time.sleep(3)
        sshd.start()

    knife = threading.Thread(target=cut)
    knife.start()
    run.measure(SILENT)
    knife.join()
    assert run.failures == []
    assert len(run.rows) == 2


def test_the_device_goes_away_for_good_and_what_was_measured_stays(
    sshd: Sshd, stand_in: Callable[[str], Program], two_precisions: Path
) -> None:
    program = stand_in(tool("[ -e one ] && { touch measuring; exec sleep 600; }; touch one"))
    remote = Remote(open_device(sshd.url), program, lost_limit_s=1.0)
    run = DeviceRun(remote, plan_of(two_precisions))

    def cut() -> None:
        end_s = time.monotonic() + 60
        while not list((sshd.folder / "device").glob("*/measuring")) and time.monotonic() < end_s:
            time.sleep(0.02)
        sshd.stop()

    knife = threading.Thread(target=cut)
    knife.start()
    run.measure(SILENT)
    knife.join()
    assert len(run.rows) == 2
    assert len({row.precision for row in run.rows.values()}) == 1
    assert "Connection refused" in run.failures[0].reason
    assert "system" in run.device().before
    end_sleepers(sshd)
    sshd.start()


def end_sleepers(sshd: Sshd) -> None:
    """What hangs on the "device" is ours to end."""
    for file in (sshd.folder / "device").glob("*/row-*.pid"):
        if not file.with_suffix(".done").exists():
            os.kill(int(file.read_text()), signal.SIGKILL)


def test_a_tool_that_hangs_is_ended(sshd: Sshd, stand_in: Callable[[str], Program]) -> None:
    remote = Remote(open_device(sshd.url), stand_in("exec sleep 600"))
    remote.open()
    with pytest.raises(DeviceError, match="clip-edge-cli gave no answer in 1 s and was ended") as problem:
        remote.tool("row-0", ["bench"], limit_s=1.0)
    assert problem.value.exit_code == 3
    assert not problem.value.lost
    pid = int(next((sshd.folder / "device").glob("*/row-0.pid")).read_text())
    end_s = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end_s:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    remote.close()


def test_a_tool_that_fails_is_quoted(sshd: Sshd, stand_in: Callable[[str], Program]) -> None:
    remote = Remote(open_device(sshd.url), stand_in("echo 'error: no ONNX Runtime here' >&2; exit 3"))
    remote.open()
    with pytest.raises(ArtifactError, match="ended with exit code 3 on the device: error: no ONNX Runtime here"):
        remote.tool("row-0", ["bench"], limit_s=30.0)
    remote.close()


def test_a_full_disk_is_named(sshd: Sshd, stand_in: Callable[[str], Program], tiny_bundle: Path) -> None:
    full = sshd.folder / "device"
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], capture_output=True
    )
    if not mounted or mounted.returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        run = DeviceRun(Remote(open_device(sshd.url), stand_in(tool())), plan_of(tiny_bundle))
        run.measure(SILENT)
        assert run.rows == {}
        assert "No space left on device" in run.failures[-1].reason
        assert run.failures[-1].reason.endswith("; 0 MB are free there")
        assert not run.failures[-1].reason.startswith(run.name)
        assert list(full.iterdir()) == []
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_nobody_at_the_other_end() -> None:
    remote = Remote(open_device("ssh://nobody@127.0.0.1:1"), Program({}))
    with pytest.raises(DeviceError, match="Connection refused") as problem:
        remote.open()
    assert problem.value.lost


@pytest.mark.parametrize(
    "word",
    [
        *("ssh://", "ssh://a@h:port", "ssh://u:secret@h", "ssh://-oProxyCommand=x/", "telnet:h", "h"),
        *("ssh://h/a b", "ssh://h/$(x)", "adb:1/a;b"),
    ],
)
def test_other_forms_are_refused(word: str) -> None:
    with pytest.raises(UsageError) as problem:
        open_device(word)
    assert problem.value.exit_code == 2
