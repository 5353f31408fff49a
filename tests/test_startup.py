"""Starting is light: help loads nothing heavy, and answers at once."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from clip_edge.cli import VERBS

HEAVY = {
    "PIL", "coremltools", "emoji", "ftfy", "matplotlib", "numpy", "onnx", "onnxruntime", "open_clip", "resvg_py",
    "rich", "safetensors", "tensorboard", "tensorrt", "timm", "tokenizers", "torch", "torchvision", "transformers",
}  # fmt: skip
HELP_WITHIN_S = 0.3
PROGRAM = """
import json, sys
from clip_edge.cli import main
try:
    code = main({words!r})
except SystemExit as ended:
    code = ended.code
json.dump([code, sorted({{name.partition(".")[0] for name in sys.modules}})], sys.stdout)
"""


def loaded_by(*words: str) -> set[str]:
    """The top-level modules in a fresh process after `clip-edge WORDS`, which must succeed."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(words=list(words))], capture_output=True, text=True)
    assert done.stderr == ""
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    assert done.stdout.startswith(("usage: clip-edge ", "clip-edge "))
    return set(modules)


@pytest.mark.parametrize("words", [("--help",), ("--version",)])
def test_help_loads_nothing_heavy(words: tuple[str, ...]):
    assert loaded_by(*words) & HEAVY == set()


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_loads_nothing_heavy(verb: str):
    assert loaded_by(verb, "--help") & HEAVY == set()


def test_importing_the_package_loads_nothing_but_itself():
    program = "import sys, clip_edge; print(*(n for n in sys.modules if n.startswith('clip_edge')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["clip_edge"]


def test_help_answers_at_once():
    """In processor time, which waiting for other programs does not lengthen; the best of several, because caches do."""
    best_s = float("inf")
    for _ in range(15):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "clip_edge.cli", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best_s = min(best_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if best_s < HELP_WITHIN_S:
            break
    assert best_s < HELP_WITHIN_S
