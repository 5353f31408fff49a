"""Who may import whom: seen in fresh processes, and read from every file, lazy imports included."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_edge.cli import VERBS

ROOT = Path(__file__).parents[1]
PARTS = ("distill", "export", "runtime", "benchmarks")
TRAINING = {"torch", "torchvision", "timm", "open_clip"}

# What a process must not have loaded after importing every module of a part.
NEVER_LOADED = {
    "clip_edge": {*TRAINING, "onnx", "onnxruntime", *PARTS},
    "distill": {"onnx", "onnxruntime", "timm", "open_clip", "export", "runtime", "benchmarks"},
    "export": {"benchmarks", "coremltools", "tensorrt"},
    "runtime": {*TRAINING, "onnx", "distill", "export", "benchmarks"},
    "benchmarks": {*TRAINING, "onnx", "distill", "export"},
}
# What no file of a part may import, not even inside a function.
NEVER_NAMED = {
    "clip_edge": {*TRAINING, "onnx", "onnxruntime", *PARTS},
    "distill": {"onnx", "onnxruntime", "export", "runtime", "benchmarks"},
    "export": {"benchmarks"},
    "runtime": {*TRAINING, "onnx", "distill", "export", "benchmarks"},
    "benchmarks": {*TRAINING, "onnx", "distill", "export"},
}
# The root's only looks upwards, each inside a function.
LAZY_EXCEPTIONS = {
    ("clip_edge/doctor.py", "runtime"),  # asks the table of backends which of them work here
    ("clip_edge/inspection.py", "benchmarks"),  # reads a report with the schema that wrote it
}


# Scripts that compare trained models inside Python: run by hand, and by nothing else of `benchmarks`.
EXPERIMENTS = {ROOT / "benchmarks" / name for name in ("dc_clip", "sam_clip")}
# Each peer's file runs in an environment of its own and imports what it measures, inside a function.
PEERS = ROOT / "benchmarks" / "peers"


def files_of(part: str) -> list[Path]:
    """The Python files of a part. The verbs are the place where parts meet: they import inside `run`."""
    if part == "clip_edge":
        return sorted((ROOT / "clip_edge").glob("*.py"))
    files = (path for path in (ROOT / part).rglob("*.py") if "examples" not in path.parts)
    return sorted(path for path in files if path.parent not in EXPERIMENTS)


def module_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] != "clip_edge":
        parts.insert(0, "clip_edge")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def short(name: str) -> str:
    """`clip_edge.distill.x` and `torch.nn` as the table names them: `distill`, `torch`."""
    parts = name.split(".")
    return parts[1] if parts[0] == "clip_edge" and len(parts) > 1 and parts[1] in PARTS else parts[0]


def loaded_after(*modules: str) -> list[str]:
    program = (
        "import importlib, json, sys\n"
        f"for name in {list(modules)!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


def is_program(path: Path) -> bool:
    """A module that acts when imported: run with `python -m`."""
    return path.name == "__main__.py"


@pytest.mark.parametrize("part", NEVER_LOADED)
def test_a_part_loads_only_what_it_may(part: str):
    loaded = loaded_after(*(module_of(path) for path in files_of(part) if not is_program(path)))
    assert {short(name) for name in loaded} & NEVER_LOADED[part] == set()
    assert set(PARTS) & {name.partition(".")[0] for name in loaded} == set()  # only as clip_edge.<part>


def imported_names(path: Path) -> Iterator[str]:
    """Every module that a file imports, at the top or inside a function; type-checking blocks load nothing."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("part", NEVER_NAMED)
def test_no_file_names_what_its_part_must_not_import(part: str):
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files_of(part)
        for name in imported_names(path)
        if not (path.parent == PEERS and short(name) in TRAINING)
        if short(name) in NEVER_NAMED[part] and (str(path.relative_to(ROOT)), short(name)) not in LAZY_EXCEPTIONS
    ]
    assert found == []


def test_verbs_import_the_parts_only_inside_functions():
    found = [
        f"{path.name}:{node.lineno}: {name}"
        for path in (ROOT / "clip_edge" / "commands" / f"{verb}.py" for verb in VERBS)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if short(name) in {*PARTS, *TRAINING, "numpy", "PIL", "rich", "onnx", "onnxruntime"}
    ]
    assert found == []


def test_export_reads_students_and_data_and_nothing_else_of_training():
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files_of("export")
        for name in imported_names(path)
        if name.startswith("clip_edge.distill.")
        and not name.startswith(("clip_edge.distill.models.", "clip_edge.distill.data."))
    ]
    assert found == []


def test_the_runtime_loads_no_torch():
    assert "torch" not in loaded_after("clip_edge.runtime")


def test_no_part_is_imported_twice():
    """From the checkout `import distill` would work too, and give other classes than clip_edge.distill."""
    assert set(PARTS) & set(sys.modules) == set()


def test_only_experiments_import_experiments():
    theirs = tuple(module_of(folder / "__init__.py") for folder in EXPERIMENTS)
    files = [path for part in ("clip_edge", *PARTS) for path in files_of(part)]
    named = [f"{path.relative_to(ROOT)}: {name}" for path in files for name in imported_names(path)]
    assert len(files) > 200
    assert [one for one in named if one.split(": ")[1].startswith(theirs)] == []
