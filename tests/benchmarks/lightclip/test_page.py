"""The page about lightclip says what the runs say."""

from __future__ import annotations

from typing import Any

from clip_edge.benchmarks.lightclip.ladder import RUNGS
from clip_edge.benchmarks.lightclip.page import page

RECALL = {"plain": 0.30, "softened": 0.31, "tokens": 0.32, "words": 0.33, "taught": 0.40}


def run(name: str, seed: int, depth: int = 4) -> dict[str, Any]:
    value = {"value": RECALL[name] + 0.01 * seed + 0.001 * depth}
    figures = {"text_to_image": value, "image_to_text": value, "top_1": value}
    return {"seed": seed, "depth": depth, "elapsed_s": 1.0, "final": {"test": figures, "unseen": figures}}


def results() -> dict[str, Any]:
    rungs = [
        {"name": name, "title": rung.title, "runs": [run(name, seed) for seed in (0, 1, 2)]}
        for name, rung in RUNGS.items()
    ]
    rungs[2]["runs"].append(run("tokens", 0, 8))
    rungs[3]["runs"].append(run("words", 0, 8))
    return {
        "training": {"steps": "10", "batch_size": "8"},
        "student": {"summary": "tiny"},
        "rungs": rungs,
        "teacher": {"text_to_image": {"recall_at_1": {"value": 0.85}}},
        "data": {"images": 4},
        "environment": {"cpu": "a processor", "usable_cores": 2},
    }


def test_rungs_and_depths() -> None:
    text = page(results(), None)
    assert f"| plain CLIP | 3 | {' | '.join(['31.4 ± 1.0 %'] * 6)} |" in text
    assert "| 4 | 33.4 ± 1.0 % (3) | 34.4 ± 1.0 % (3) |" in text
    assert "| 8 | 32.8 % (1) | 33.8 % (1) |" in text
    assert "| 2 |" not in text  # no run of it yet
    assert "the same 80 pictures" in text
    assert "What each term costs" not in text


def test_the_price_stands_beside_them() -> None:
    way = {"step_s": 0.5, "step_factor": 1.0, "memory_factor": 1.0}
    ways = {"plain CLIP": way, "softened labels": way | {"step_s": 0.55, "step_factor": 1.1}}
    text = page(results(), {"ways": ways, "student": "nano-light", "training": {"batch_size": "64"}})
    assert "| student `nano-light`, batch 64 | s a step | of plain CLIP | peak memory, of plain CLIP |" in text
    assert "| softened labels | 0.550 | 1.10 | 1.00 |" in text
