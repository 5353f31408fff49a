"""The search for the fewest steps up: exact counts, and no more tries than it needs."""

from __future__ import annotations

import pytest

from clip_edge.export.coreml.reduce import LADDERS, _Attempt, _fewest, _levels


def test_the_worst_layers_go_up_first_and_all_before_any_goes_twice() -> None:
    names, ladder = ["a", "b", "c"], ("int4", "int8", "fp16")
    assert _levels(names, ladder, 0) == {"a": "int4", "b": "int4", "c": "int4"}
    assert _levels(names, ladder, 2) == {"a": "int8", "b": "int8", "c": "int4"}
    assert _levels(names, ladder, 4) == {"a": "fp16", "b": "int8", "c": "int8"}
    assert set(_levels(names, ladder, 6).values()) == {"fp16"}
    assert _levels([], ladder, 0) == {}


@pytest.mark.parametrize("needed", [0, 1, 7, 13, 20])
def test_the_fewest_steps_are_found(needed: int) -> None:
    tried: list[int] = []

    def attempt(steps: int) -> _Attempt:
        tried.append(steps)
        return _Attempt({}, {}, {}, 1.0 if steps >= needed else 0.5)

    assert _fewest(attempt, 20, 10, 0.9).cosine == 1.0
    best = min(steps for steps in tried if steps >= needed)
    assert best == needed
    assert len(tried) <= 7


def test_a_tower_that_never_holds_gives_the_most_careful_attempt() -> None:
    tried: list[int] = []

    def attempt(steps: int) -> _Attempt:
        tried.append(steps)
        return _Attempt({}, {}, {}, steps / 100)

    assert _fewest(attempt, 20, 10, 0.9).cosine == 0.2
    assert tried == [0, 20]


def test_every_ladder_ends_where_nothing_is_lost() -> None:
    assert all(ladder[0] == name and ladder[-1] == "fp16" for name, ladder in LADDERS.items())
