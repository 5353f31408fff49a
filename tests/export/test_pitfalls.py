"""The table of known failures: complete, and every test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", (ROOT / "docs/targets/pitfalls.md").read_text(), re.MULTILINE)


def test_every_known_failure_has_an_answer() -> None:
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 38))
    for number, _, answer in ROWS:
        assert "`test_" in answer or "cannot occur" in answer or "docs/" in answer, number


def test_every_test_that_is_named_exists() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    native = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "runtime/tests").rglob("*.cpp"))
    there = set(re.findall(r"def (test_\w+)\(", text + native))
    named = {name for _, _, answer in ROWS for name in re.findall(r"`(test_\w+)`", answer)}
    assert sorted(named - there) == []
