"""The page about dc-clip says what the runs say."""

from __future__ import annotations

from typing import Any

import pytest

from clip_edge.benchmarks.dc_clip.ladder import ARMS
from clip_edge.benchmarks.dc_clip.page import page

RECALL = {"direct": 0.60, "features": 0.77, "longer": 0.78, "both": 0.79, "one-language": 0.5}


def run(value: float, parameters: int) -> dict[str, Any]:
    figures = {name: {"value": value} for name in ("text_to_image", "image_to_text", "top_1")}
    per_language = {"en": figures, "zh": figures}
    return {"seed": 0, "parameters": parameters, "final": {"test": per_language, "unseen": per_language}}


def results(both: float) -> dict[str, Any]:
    recall = RECALL | {"both": both}
    arms = [
        {
            "name": name,
            "title": arm.title,
            "recipe": arm.recipe,
            "steps": arm.steps,
            "settings": arm.settings,
            "shown": arm.shown,
            "runs": [run(recall[name], 10), run(recall[name] + 0.02, 10)] if arm.shown else [{"seed": 0}],
        }
        for name, arm in ARMS.items()
    ]
    return {
        "langs": ["en", "zh"],
        "data": {"images": 4},
        "teaching": {},
        "training": {"batch_size": "8"},
        "student": {"summary": "tiny"},
        "teacher": {"summary": "large", **run(0.8, 60)},
        "environment": {"cpu": "a processor", "usable_cores": 2},
        "arms": arms,
    }


def test_figures_of_every_language_and_their_mean() -> None:
    text = page(results(0.79), "ladder.json")
    assert "| teacher | 80.0 % | 80.0 % | 80.0 % |" in text
    assert f"| pairs of all languages (`clip`) | {' | '.join(['61.0 ± 1.4 %'] * 3)} |" in text
    assert f"| stages 1 and 2 | {' | '.join(['100 %'] * 6)} |" in text
    assert "stage 1 before stage 2 |" not in text


@pytest.mark.parametrize(("both", "kept", "beaten"), [(0.79, "met", "met"), (0.55, "**missed**", "**missed**")])
def test_goals_are_called_met_or_missed(both: float, kept: str, beaten: str) -> None:
    text = page(results(both), "ladder.json")
    assert "60 / 10 = 6.0, met" in text
    assert f"{(both + 0.01) / 0.8:.0%}, {kept}" in text
    assert f"in {6 if beaten == 'met' else 0} of 6 figures, {beaten}" in text
