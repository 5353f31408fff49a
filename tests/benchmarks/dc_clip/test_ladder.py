"""The arms of the dc-clip ladder: equally many pictures each, and settings that the recipes take."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_edge.benchmarks.dc_clip.ladder import ARMS, HERE, LONGER, STEPS, TEACHING, Place
from clip_edge.config import load_config
from clip_edge.distill import recipes
from clip_edge.distill.models.spec import load_spec


@pytest.mark.parametrize("name", ARMS)
def test_the_recipe_takes_the_settings(name: str, tmp_path: Path) -> None:
    place, arm = Place(tmp_path, ("ar", "ja")), ARMS[name]
    recipe = recipes.load(arm.recipe)
    words = [f"{key}={value}" for key, value in place.chosen(name, 3).items()]
    config = load_config(recipe.Config, [recipes.find(arm.recipe).defaults], words)
    assert config.seed == 3
    assert config.steps == arm.steps
    assert config.langs == (("ar",) if arm.one_language else ())


def test_every_arm_sees_equally_many_pictures() -> None:
    for name, arm in ARMS.items():
        before = 0 if arm.start is None else ARMS[arm.start].steps
        assert not arm.shown or before + arm.steps == STEPS * (LONGER if name == "longer" else 1)


def test_teacher_and_student_are_specifications() -> None:
    teacher, student = (load_spec(str(HERE / f"{name}.json")) for name in ("teacher", "student"))
    assert teacher.tokenizer == student.tokenizer  # so that tokens can be compared
    assert teacher.text.context_length == student.text.context_length
    load_config(
        recipes.load("clip").Config,
        [recipes.find("clip").defaults],
        [f"{key}={value}" for key, value in TEACHING.items()],
    )
