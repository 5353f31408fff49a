"""The rungs of the lightclip ladder: each switches one more term on, and the recipe takes every setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_edge.benchmarks.lightclip.cost import ways
from clip_edge.benchmarks.lightclip.ladder import DEPTHS, OFF, RUNGS, TRAINING, chosen, student
from clip_edge.config import load_config
from clip_edge.distill.models.spec import load_spec
from clip_edge.distill.recipes import RECIPES, lightclip


def config(settings: dict[str, str]) -> lightclip.Config:
    words = [f"{key}={value}" for key, value in settings.items()]
    return load_config(lightclip.Config, [RECIPES["lightclip"].defaults], words)


def terms(config: lightclip.Config) -> tuple[bool, bool, bool]:
    return config.soften.alpha > 0, config.tokens.weight > 0, config.words.weight > 0


def test_each_rung_switches_one_more_term_on() -> None:
    found = [terms(config(TRAINING | chosen(name, 4))) for name in RUNGS]
    assert found == [
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (True, True, True),
        (True, True, True),
    ]
    assert [rung.taught for rung in RUNGS.values()] == [False] * 4 + [True]


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_student_of_another_depth_differs_in_nothing_else(depth: int, tmp_path: Path) -> None:
    spec, ladder = load_spec(str(student(tmp_path, depth))), load_spec(str(student(tmp_path, DEPTHS[0])))
    assert spec.text.depth == depth
    assert (spec.image, spec.tokenizer, spec.text.width) == (ladder.image, ladder.tokenizer, ladder.text.width)
    layers = config(chosen("words", depth)).words.layers
    assert layers[-1] == depth - 1
    assert len(set(layers)) == 2


def test_the_price_is_taken_of_each_term_alone(tmp_path: Path) -> None:
    found = ways(tmp_path)
    assert found["plain CLIP"].recipe == "clip"
    for name, way in list(found.items())[1:7]:
        assert sum(terms(config(dict(way.settings)))) == 1, name
    assert set(found["softened labels"].settings) == set(OFF) - {"soften.alpha"}
    for name in ("all three terms", "all three and a stored teacher"):
        assert all(terms(config(dict(found[name].settings)))), name
