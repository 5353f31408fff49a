"""adb: what is asked of it, with a stand-in for the command that runs everything here; no Android device is at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_edge.benchmarks.devices import open_device
from clip_edge.benchmarks.devices.shell import DeviceError

ADB = """#!/bin/sh
echo "$@" >>{log}
[ "$1" = -s ] && {{ [ "$2" = R58 ] || {{ echo "adb: device '$2' not found" >&2; exit 1; }}; shift 2; }}
case $1 in
  shell) shift; exec sh -c "$*" ;;
  push) exec cp "$2" "$3" ;;
esac
exit 1
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "adb"
    program.parent.mkdir()
    program.write_text(ADB.format(log=tmp_path / "log"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return tmp_path / "log"


def test_files_arrive_and_lines_are_run(log: Path, tmp_path: Path) -> None:
    device = open_device(f"adb:R58{tmp_path}/device")
    (tmp_path / "tool").write_text("#!/bin/sh\necho there\n")
    device.push({"bin/tool": tmp_path / "tool", "a.txt": b"A"}, device.folder / "x", limit_s=60)
    assert sorted(path.name for path in (tmp_path / "device" / "x").iterdir()) == ["a.txt", "bin"]
    assert device.run(f"{device.folder}/x/bin/tool") == b"there\n"
    assert all(line.startswith("-s R58 ") for line in log.read_text().splitlines())


def test_a_device_that_is_unplugged_may_come_back(log: Path) -> None:
    with pytest.raises(DeviceError, match="device 'gone' not found") as problem:
        open_device("adb:gone").run("true")
    assert problem.value.lost
    with pytest.raises(DeviceError) as problem:
        open_device("adb:").run("exit 4")
    assert not problem.value.lost


def test_without_adb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="`adb` is not installed here"):
        open_device("adb:").run("true")
