"""The table of known failures: complete, and every file, function and test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/targets/pitfalls.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| (.*?) ?\|$", PAGE, re.MULTILINE)
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


def test_every_known_failure_has_an_answer() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, 38))
    for number, _, prevented, proof in ROWS:
        assert "::test_" in proof or "cannot occur" in prevented or "only a Mac" in proof, number
        assert "::" in prevented or "cannot occur" in prevented, number


def test_everything_that_is_named_exists() -> None:
    assert len(NAMED) > 80
    for path, name in NAMED:
        file = ROOT / path
        assert file.is_file(), path
        assert re.search(rf"^(def|class) {name}\b", file.read_text(encoding="utf-8"), re.MULTILINE), f"{path}::{name}"


def test_what_proves_is_a_test_and_what_prevents_is_none() -> None:
    for number, _, prevented, proof in ROWS:
        assert all(path.startswith("tests/") for path, _ in re.findall(r"`([\w/]+\.py)::(\w+)`", proof)), number
        assert not any(path.startswith("tests/") for path, _ in re.findall(r"`([\w/]+\.py)::(\w+)`", prevented)), number
