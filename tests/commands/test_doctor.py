"""`clip-edge doctor` in whole and in broken environments."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clip_edge import doctor
from clip_edge.doctor import PACKAGES, Package, diagnose, try_imports

QUICK = tuple(package for package in PACKAGES if package.module in ("numpy", "jinja2", "tomli_w"))


def fake(folder: Path, name: str, body: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(body)


def found(folder: Path, *names: str) -> dict[str, tuple[str, str | None]]:
    """State and problem of each module, with `folder` first on the path of the child."""
    packages = [Package(name, name, "distill") for name in names]
    code = (
        "import json, sys\n"
        "from clip_edge.doctor import Package, try_imports\n"
        f"packages = [Package(name, name, 'distill') for name in {[p.module for p in packages]!r}]\n"
        "print(json.dumps({f.package.module: [f.state, f.problem] for f in try_imports(packages)}))"
    )
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    return {name: tuple(value) for name, value in json.loads(done.stdout).items()}


def test_a_broken_package_is_named_with_its_error(tmp_path: Path) -> None:
    fake(tmp_path, "fake_broken", "raise RuntimeError('operator torchvision::nms\\ndoes not exist')")
    fake(tmp_path, "fake_missing_part", "import no_such_module_anywhere")
    fake(tmp_path, "fake_exits", "raise SystemExit(3)")
    fake(tmp_path, "fake_chatty", "print('hello'); print('null')")
    names = ("fake_broken", "fake_missing_part", "no_such_package", "fake_exits", "fake_chatty")
    assert found(tmp_path, *names) == {
        "fake_broken": ("broken", "RuntimeError: operator torchvision::nms does not exist"),
        "fake_missing_part": ("broken", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        "no_such_package": ("missing", None),
        "fake_exits": ("broken", "SystemExit: 3"),
        "fake_chatty": ("works", None),
    }


def test_a_package_that_kills_the_process_is_the_broken_one(tmp_path: Path) -> None:
    fake(tmp_path, "fake_aborts", "import os; os.kill(os.getpid(), 9)")
    fake(tmp_path, "fake_leaves", "import os; os._exit(0)")
    result = found(tmp_path, "json", "fake_aborts", "fake_leaves", "tomllib")
    assert result == {
        "json": ("works", None),
        "fake_aborts": ("broken", "importing it ends the process with signal 9"),
        "fake_leaves": ("broken", "importing it ends the process with exit code 0"),
        "tomllib": ("works", None),
    }


def test_a_package_that_hangs_is_the_broken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, "fake_hangs", "import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "IMPORT_TIMEOUT_S", 5.0)
    states = [item.state for item in try_imports([Package("fake_hangs", "x", ""), Package("json", "json", "")])]
    assert states == ["broken", "works"]


def test_a_missing_core_package_is_exit_code_3(tmp_path: Path) -> None:
    """The whole verb in an environment whose onnxruntime is broken and whose jinja2 is too."""
    fake(tmp_path, "onnxruntime", "raise ImportError('libonnxruntime.so.1: cannot open shared object file')")
    code = (
        "import sys\n"
        "from clip_edge import doctor\n"
        "doctor.PACKAGES = tuple(p for p in doctor.PACKAGES if p.module in ('numpy', 'onnxruntime', 'jinja2'))\n"
        "from clip_edge.cli import main\n"
        "sys.exit(main(['doctor', '--json', '-', '-q']))"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    told: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, told["core_works"], done.stderr) == (3, False, "")
    assert [item["state"] for item in told["packages"]] == ["works", "broken", "works"]
    assert told["problems"] == [
        "onnxruntime is installed and broken: ImportError: libonnxruntime.so.1: cannot open shared object file"
    ]
    run = next(item for item in told["verbs"] if item["name"] == "run")
    assert run == {"name": "run", "works": False, "needs": [], "install": "pip install --force-reinstall onnxruntime"}
    assert not any(item["works"] for item in told["backends"])


def test_a_whole_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", QUICK)
    diagnosis = diagnose(tmp_path)
    assert diagnosis.core_works
    assert all(ability.works and ability.install is None for ability in diagnosis.verbs)
    assert diagnosis.machine["cpu"]["usable_cores"] >= 1
    assert diagnosis.machine["free_disk_bytes"] > 0


def test_every_verb_is_judged() -> None:
    from clip_edge.cli import VERBS

    assert set(VERBS) - {"doctor"} <= set(doctor.VERBS)
    assert {extra for extras in doctor.VERBS.values() for extra in extras} == {
        package.extra for package in PACKAGES if package.extra
    }
