"""The road of the merge for a look: real command lines, kept results, and a page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from clip_edge.benchmarks import training
from clip_edge.benchmarks.sam_clip import merge
from clip_edge.benchmarks.sam_clip.page import page
from clip_edge.files import read_json


@pytest.mark.slow
def test_teachers_stages_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "merge.json"
    monkeypatch.setattr(merge, "WEIGHTS", ("10",))
    words = ["merge", "--quick", "--work", str(tmp_path), "--results", str(results), "--seeds", "3"]
    monkeypatch.setattr(sys, "argv", words)
    merge.main()
    found = read_json(results)
    assert [run["run"] for run in found["merged"]["10"]] == ["merge-10-3"]
    assert 0 <= found["merged"]["10"][0]["prompted"]["box"]["iou"] <= 1
    assert "text_to_image" not in found["teachers"]["sam-teacher"][0]
    assert found["averaged"]["averaged-names"][0]["top_1"]["value"] >= 0
    assert 0 < found["pipeline"]["filled_box_iou"] < 1
    assert set(found["latency"]["rows"]) >= {"two encoders", "merged, one outline"}
    with Image.open(tmp_path / "scenes.png") as scenes:
        assert scenes.width > scenes.height > 0
    written = page(found)
    assert "| merged | 1 | 1 |" in written
    assert "| pipeline of both" in written
    assert "| merged, 3 times as long in stage 2 | 1 | 1 |" in written
    assert written.count(", met |") + written.count(", missed |") == 2 * 6

    def refuse(words: object, console: object) -> None:
        pytest.fail(f"done before: {words}")

    monkeypatch.setattr(training, "run_verb", refuse)
    merge.main()  # everything is kept
