"""The ladder for a look: real command lines, kept results, and a page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clip_edge.benchmarks import training
from clip_edge.benchmarks.reinforced import ladder
from clip_edge.benchmarks.reinforced.page import page
from clip_edge.files import read_json


@pytest.mark.slow
def test_two_rungs_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "ladder.json"
    words = ["ladder", "--quick", "--work", str(tmp_path), "--results", str(results), "--seeds", "3"]
    monkeypatch.setattr(sys, "argv", [*words, "--rungs", "plain,augmented"])
    ladder.main()
    found = {rung["name"]: rung["runs"] for rung in read_json(results)["rungs"] if rung["runs"]}
    assert set(found) == {"plain", "augmented"}
    for runs in found.values():
        assert [run["seed"] for run in runs] == [3]
        assert [row["step"] for row in runs[0]["log"]] == [2, 4]
        assert set(runs[0]["final"]) == {"test", "unseen"}
    assert found["augmented"][0]["log"][0]["true/kl"] > 0
    assert "| + strong augmentation | 1 |" in page(read_json(results), None)

    def refuse(words: object, console: object) -> None:
        pytest.fail(f"done before: {words}")

    monkeypatch.setattr(training, "run_verb", refuse)
    ladder.main()  # everything is kept
