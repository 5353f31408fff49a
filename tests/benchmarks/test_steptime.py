"""Steps of two ways to train, timed in real short runs that take turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clip_edge.benchmarks import steptime
from clip_edge.benchmarks.steptime import Way, cost_table, measure

STUDENT = {
    "name": "tiny",
    "embed_dim": 32,
    "image": {
        "tower": "timm:vit_tiny_patch16_224",
        "args": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
        "size": 32,
    },
    "text": {"depth": 1, "width": 32, "heads": 2, "context_length": 24, "causal": False, "pad_mask": True},
    "tokenizer": {"kind": "trained", "vocab_size": 300},
}


@pytest.mark.slow
def test_every_way_is_timed_behind_its_first_steps(
    tiny_emoji: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(steptime.TRAINING, "steps", "4")
    monkeypatch.setitem(steptime.TRAINING, "batch_size", "8")
    student = tmp_path / "tiny.json"
    student.write_text(json.dumps(STUDENT))
    ways = {"plain": Way("clip"), "terms": Way("lightclip", {"words.weight": "0"})}
    found = measure(ways, data=tiny_emoji, student=str(student), work=tmp_path, rounds=1)
    assert list(found) == ["plain", "terms"]
    assert (found["plain"]["step_factor"], found["plain"]["memory_factor"]) == (1, 1)
    for way in found.values():
        assert len(way["samples_s"]) == 2  # of four steps, without the two that warm up
        assert all(0 < seconds < 60 for seconds in way["samples_s"])
        assert way["peak_bytes"] > 50e6  # a process with torch in it
    assert found["terms"]["step_factor"] == pytest.approx(found["terms"]["step_s"] / found["plain"]["step_s"])


def test_a_run_that_fails_ends_the_measurement_with_its_code(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        measure({"plain": Way("clip")}, data=tmp_path / "nowhere", student="nano-s", work=tmp_path)
    assert caught.value.code == 2


def test_the_table_tells_medians_and_factors() -> None:
    ways = {
        "plain CLIP": {"step_s": 0.5, "step_factor": 1.0, "memory_factor": 1.0},
        "more": {"step_s": 0.75, "step_factor": 1.5, "memory_factor": 1.25},
    }
    assert cost_table(ways, "nano-s", {"batch_size": "64"}).splitlines() == [
        "| student `nano-s`, batch 64 | s a step | of plain CLIP | peak memory, of plain CLIP |",
        "|---|---|---|---|",
        "| plain CLIP | 0.500 | 1.00 | 1.00 |",
        "| more | 0.750 | 1.50 | 1.25 |",
    ]
