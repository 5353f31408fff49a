"""The figures of the page: when a curve reaches a goal, and what is said about runs."""

from __future__ import annotations

from typing import Any

import pytest

from clip_edge.benchmarks.reinforced.ladder import RUNGS
from clip_edge.benchmarks.reinforced.page import TEST_RECALL, curve, page, reached


def test_a_goal_is_reached_on_a_straight_line_between_evaluations() -> None:
    points = [(10.0, 0.1), (20.0, 0.3), (30.0, 0.2)]
    assert reached(points, 0.2) == pytest.approx(15)
    assert reached(points, 0.05) == pytest.approx(5)
    assert reached(points, 0.4) is None


def made(seeds: int, slope: float) -> list[dict[str, Any]]:
    recall = {"value": 10 * slope}
    final = {split: {"text_to_image": recall, "image_to_text": recall} for split in ("test", "unseen")}
    log = [{"step": step, "true/kl": 1.0, "synthetic/kl": 2.0, TEST_RECALL: step * slope} for step in (2, 4, 6, 8, 10)]
    run = {"cpu": "a processor", "elapsed_s": 60.0, "final": final, "log": log}
    return [run | {"seed": seed} for seed in range(seeds)]


def test_the_page_says_what_the_runs_say() -> None:
    slopes = {"plain": 0.01, "captions": 0.02, "augmented": 0.05, "augmented-int8": 0.04}
    rungs = [
        {"name": name, "title": rung.title, "runs": made(3, slopes[name]) if name in slopes else []}
        for name, rung in RUNGS.items()
    ]
    results = {
        "training": {"steps": "10", "batch_size": "8"},
        "student": {"summary": "tiny"},
        "rungs": rungs,
        "knowledge": {"augmented": {"bytes_per_sample": 4000.0}, "augmented-int8": {"bytes_per_sample": 1900.0}},
        "teachers": {},
        "data": {"images": 4},
        "environment": {"cpu": "a processor", "usable_cores": 2},
    }
    rungs[5]["runs"][2]["cpu"] = "another one"  # type: ignore[index]
    again = {**made(1, 0.03)[0], "rung": "captions"}
    text = page(results | {"repeated": [again]}, None)
    assert "| plain CLIP | 3 | 10.0 ± 0.0 % | 10.0 ± 0.0 % | 10.0 ± 0.0 % | 60 |" in text
    assert "| + synthetic captions | 40 | 2.0 |" in text  # half of plain CLIP's 80 pictures
    assert "| + strong augmentation | 16 | 5.0 |" in text
    assert "+ distillation" not in text  # no run of it yet
    assert "The two runs of seed 2 come from different processors." in text
    assert "The same run on another processor: + synthetic captions, seed 0: 20.0 % and 30.0 %." in text
    assert text.endswith("machine: a processor, 2 cores; some runs: another one\n")
    assert "1,900 bytes a picture instead of 4,000 with bf16 (48%)" in text


def test_curves_are_means_of_the_steps_that_all_seeds_have() -> None:
    one, two = [{"step": 2, TEST_RECALL: 0.2}, {"step": 4, TEST_RECALL: 0.4}], [{"step": 2, TEST_RECALL: 0.4}]
    assert curve({"runs": [{"log": one}, {"log": two}]}) == [(2, pytest.approx(0.3))]
