"""What ruff does not count: the size of files and functions, and calls that run what a file says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("clip_edge", "distill", "export", "runtime", "benchmarks")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_FILE, MAX_FUNCTION, MAX_RECIPE_RUN = 400, 60, 120
BANNED_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
HARMLESS = {"UnpicklingError"}  # what a refused file raises
BANNED_CALLS = {"eval", "exec", "__import__"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def called(node: ast.Call) -> str:
    """The dotted name of what is called, as far as it is a name."""
    return ast.unparse(node.func)


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def lines_of(function: ast.AST) -> int:
    """Lines of a function, its docstring not counted: explaining is free."""
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    assert function.end_lineno is not None
    first = function.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    explained = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
    return function.end_lineno - function.lineno + 1 - explained


def size_problems(path: Path) -> list[str]:
    found = []
    length = len(path.read_text(encoding="utf-8").splitlines())
    if length > MAX_FILE:
        found.append(f"{name_of(path)}: {length} lines")
    recipe = path.parent.name == "recipes"
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            limit = MAX_RECIPE_RUN if recipe and node.name == "run" else MAX_FUNCTION
            if lines_of(node) > limit:
                found.append(f"{name_of(path)}: {node.name} has {lines_of(node)} lines")
    return found


def trust_problems(path: Path) -> list[str]:
    """Calls that would run code which a file or a person brings along."""
    found = []
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in BANNED_MODULES:
            found.append(f"imports from {node.module}")
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in BANNED_MODULES:
            found += [f"uses {ast.unparse(node)}"] if node.attr not in HARMLESS else []
        if isinstance(node, ast.Call):
            name = called(node)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in BANNED_CALLS:
                found.append(f"calls {name}")
            if name == "torch.load" and keywords.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if name.endswith("np.load") and keywords.get("allow_pickle", "False") != "False":
                found.append("np.load with allow_pickle")
            if keywords.get("shell", "False") != "False":
                found.append(f"{name} through a shell")
            if name.endswith("yaml.load"):
                found.append("yaml.load")
    return [f"{name_of(path)}: {problem}" for problem in found]


def test_there_is_something_to_check():
    assert len(SOURCES) > 10
    assert len(TESTS) > 5


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_are_short(path: Path):
    assert size_problems(path) == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_runs_what_a_file_says(path: Path):
    assert trust_problems(path) == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_file_says_what_it_is(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "line",
    [
        "pickle.loads(data)",
        "from pickle import loads",
        "eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_the_check_sees(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "x.py").write_text(line)
    assert len(trust_problems(tmp_path / "x.py")) == 1


def test_the_check_lets_the_harmless_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    lines = "import pickle\ntorch.load(path, weights_only=True)\nnp.load(path)\nmodel.eval()\npickle.UnpicklingError\n"
    (tmp_path / "x.py").write_text(lines)
    assert trust_problems(tmp_path / "x.py") == []


def test_no_page_or_program_names_a_private_place():
    words = ("/work" + "/", "/tmp" + "/w/", "/root" + "/")
    texts = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "constraints.txt")]
    found = [
        f"{name_of(path)}: {word}"
        for path in [*SOURCES, *TESTS, *texts, *(ROOT / "docs").rglob("*.md"), *(ROOT / "scripts").iterdir()]
        if path.exists()
        for word in words
        if word in path.read_text(encoding="utf-8")
    ]
    assert found == []
