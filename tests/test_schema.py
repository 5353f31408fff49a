"""Dataclasses from untrusted dictionaries: what is wrong is said all at once, what is right comes back unchanged."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_edge.errors import BundleError, ConfigError
from clip_edge.schema import as_dict, build


@dataclass(frozen=True)
class Optimizer:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    kind: Literal["adamw", "lion"] = "adamw"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"`lr` must be positive; found {self.lr}")


@dataclass(frozen=True)
class Config:
    steps: int
    name: str = "x"
    fast: bool = False
    folder: Path = Path("a/b")
    langs: tuple[str, ...] = ("en",)
    limit: int | None = None
    either: int | str = 0
    levels: Literal[1, 2] = 1
    optimizer: Optimizer = field(default_factory=Optimizer)
    extra: Optimizer | None = None
    weights: dict[str, float] = field(default_factory=dict)
    anything: Any = None


def problem_of(data: object, cls: type = Config) -> str:
    with pytest.raises(ConfigError) as caught:
        build(cls, data, where="c.toml")
    return caught.value.what


def test_defaults_are_filled_in():
    assert build(Config, {"steps": 3}, where="here") == Config(steps=3)


CONFIGS = st.builds(
    Config,
    steps=st.integers(),
    name=st.text(),
    fast=st.booleans(),
    folder=st.sampled_from([Path("a"), Path("/x/y"), Path()]),
    langs=st.lists(st.text(max_size=3), max_size=3).map(tuple),
    limit=st.none() | st.integers(),
    either=st.integers() | st.text(),
    levels=st.sampled_from([1, 2]),
    optimizer=st.builds(Optimizer, lr=st.floats(1e-9, 1e9), kind=st.sampled_from(["adamw", "lion"])),
    extra=st.none() | st.builds(Optimizer),
    weights=st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    anything=st.none() | st.integers() | st.text(),
)


@given(CONFIGS)
def test_a_dataclass_comes_back_through_json(config: Config):
    assert build(Config, json.loads(json.dumps(as_dict(config))), where="here") == config


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*as_dict(Config(1)), "x"]), inner),
    max_leaves=8,
)


@given(ANYTHING)
def test_whatever_is_given_is_either_built_or_refused(data: object):
    with contextlib.suppress(ConfigError):
        config = build(Config, data, where="here")
        assert isinstance(config.steps, int)
        assert isinstance(config.optimizer, Optimizer)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"steps": 1, "optimzer": {}}, "unknown key: `optimzer` (did you mean `optimizer`?)"),
        ({"steps": 1, "zzz": 1}, "unknown key: `zzz`"),
        ({"steps": 1, "optimizer": {"lrr": 1}}, "unknown key: `optimizer.lrr` (did you mean `optimizer.lr`?)"),
        ({}, "missing key: `steps`"),
        ({"steps": "3"}, "`steps` must be a whole number; found '3'"),
        ({"steps": True}, "`steps` must be a whole number; found True"),
        ({"steps": 1.0}, "`steps` must be a whole number; found 1.0"),
        ({"steps": 1, "fast": 1}, "`fast` must be true or false; found 1"),
        ({"steps": 1, "name": None}, "`name` must be a string; found None"),
        ({"steps": 1, "folder": 1}, "`folder` must be a path; found 1"),
        ({"steps": 1, "langs": "en"}, "`langs` must be a list; found 'en'"),
        ({"steps": 1, "langs": ["en", 2]}, "`langs[1]` must be a string; found 2"),
        ({"steps": 1, "either": []}, "`either` must be int or str; found []"),
        ({"steps": 1, "levels": True}, "`levels` must be one of 1, 2; found `True`"),
        ({"steps": 1, "optimizer": 3}, "`optimizer` must be a table; found 3"),
        ({"steps": 1, "optimizer": {"lr": -1.0}}, "`optimizer`: `lr` must be positive; found -1.0"),
        ({"steps": 1, "optimizer": {"lr": float("nan")}}, "`optimizer.lr` must be a finite number; found nan"),
        ({"steps": 1, "optimizer": {"lr": True}}, "`optimizer.lr` must be a number; found True"),
        ({"steps": 1, "optimizer": {"betas": [1]}}, "`optimizer.betas` must be a list of 2 values; found [1]"),
        (
            {"steps": 1, "optimizer": {"kind": "adam"}},
            "`optimizer.kind` must be one of adamw, lion; found `adam` (did you mean `adamw`?)",
        ),
        ({"steps": 1, "extra": {"lr": "x"}}, "`extra.lr` must be a number; found 'x'"),
        ({"steps": 1, "weights": {"a": "b"}}, "`weights.a` must be a number; found 'b'"),
        ([], "`the file` must be a table; found []"),
        ({"steps": "y" * 99}, f"`steps` must be a whole number; found '{'y' * 56}..."),
    ],
)
def test_the_exact_problem(data: object, problem: str):
    assert problem_of(data) == problem


@pytest.mark.parametrize("value", [10**400, 16**5000], ids=["no float", "not even printable"])
def test_numbers_beyond_all_bounds_are_refused(value: int):
    assert problem_of({"lr": value}, Optimizer).startswith("`lr` must be a finite number; found ")


def test_every_problem_is_reported_at_once():
    with pytest.raises(BundleError) as caught:
        build(Config, {"stps": 1, "fast": 2}, where="m.json", error=BundleError, hint="write it again")
    assert str(caught.value) == (
        "3 problems:\n"
        "  unknown key: `stps` (did you mean `steps`?)\n"
        "  missing key: `steps`\n"
        "  `fast` must be true or false; found 2\n"
        "  in: m.json\n"
        "\nhint: write it again"
    )
