"""`clip-edge list`: each table, as words and as one object, without loading anything heavy."""

import json
import subprocess
import sys

import pytest

from clip_edge.cli import main
from clip_edge.commands.list import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_each_table_has_names_and_one_json_object(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind, "--json", "-"]) == 0
    (entries,) = json.loads(capsys.readouterr().out).values()
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names) >= 1
    assert all(entry["summary"] for entry in entries)
    assert main(["list", kind]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)


def test_a_misspelt_table_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "student"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown kind: `student`\n\nhint: did you mean `students`? known: backends, recipes, students, targets\n"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_table_needs_an_extra(kind: str) -> None:
    """Every package of the extras is made impossible to import."""
    code = (
        "import sys\n"
        "for name in ('torch', 'timm', 'open_clip', 'onnx', 'onnxscript', 'onnxruntime', 'emoji', 'jinja2'):\n"
        "    sys.modules[name] = None\n"
        "from clip_edge.cli import main\n"
        f"sys.exit(main(['list', {kind!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
