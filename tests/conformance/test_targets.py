"""The contract of every row of the table of targets."""

from __future__ import annotations

import importlib
import inspect

import pytest

from clip_edge.bundle import TOWERS
from clip_edge.export.targets import TARGETS, file_name
from clip_edge.numerics import TOLERANCES
from clip_edge.runtime.backends import BACKENDS


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_keeps_the_contract(name: str) -> None:
    target = TARGETS[name]
    assert set(target.towers) == set(TOWERS)
    assert target.precisions
    assert set(target.precisions) <= set(TOLERANCES)
    assert name in BACKENDS[target.backend].targets
    assert target.install.startswith("pip install ")
    assert target.summary
    paths = [file_name(target, tower, precision) for tower in TOWERS for precision in target.precisions]
    assert len(set(paths)) == len(paths) // (2 if target.shared else 1)
    writer = importlib.import_module(target.module)
    assert list(inspect.signature(writer.write_tower).parameters) == ["job", "path"]
