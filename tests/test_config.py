"""Configurations from TOML files and --set: what wins over what, and what is refused."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_edge.config import MAX_TOML_BYTES, load_config, read_toml, to_toml
from clip_edge.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    name: str = "adamw"
    limit: int | None = None


@dataclass(frozen=True)
class Config:
    steps: int = 10
    inner: Inner = field(default_factory=Inner)
    langs: tuple[str, ...] = ("en",)


def written(folder: Path, text: str, name: str = "c.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_later_files_win_and_set_wins_over_files(tmp_path: Path):
    first = written(tmp_path, "steps = 1\n[inner]\nlr = 0.5\nname = 'a'\n", "1.toml")
    second = written(tmp_path, "[inner]\nname = 'b'\n", "2.toml")
    config = load_config(Config, [first, second], ["inner.limit=3", "langs=['zh', 'en']"])
    assert config == Config(steps=1, inner=Inner(lr=0.5, name="b", limit=3), langs=("zh", "en"))


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("inner.name=lion", "lion"),
        ("inner.name='lion'", "lion"),
        ("inner.name=a=b", "a=b"),
        ("inner.name=", ""),
        ("inner.name='a'\nsteps = 3", "'a'\nsteps = 3"),
    ],
)
def test_a_bare_word_is_a_string(override: str, name: str):
    assert load_config(Config, [], [override]).inner.name == name


@pytest.mark.parametrize("text", ["steps", "=3", " = 3"])
def test_set_needs_a_key_and_a_value(text: str):
    with pytest.raises(ConfigError) as caught:
        load_config(Config, [], [text])
    assert str(caught.value) == f"--set needs key=value; found `{text}`\n\nhint: for example: --set optimizer.lr=1e-3"


def test_a_misspelt_key_names_the_nearest_and_the_file(tmp_path: Path):
    path = written(tmp_path, "[inner]\nlrr = 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Config, [path], ["steps=2"])
    assert str(caught.value) == (
        f"unknown key: `inner.lrr` (did you mean `inner.lr`?)\n  in: {path}, --set\n\nhint: see all keys with --dry-run"
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"steps = ", "Invalid value"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff"),
        (b"a = " + b"1" * 5000, "Exceeds the limit"),
        (b"a = " + b"[" * 50_000, "maximum recursion depth|nested|TOML inline arrays"),
    ],
)
def test_broken_toml_is_named(tmp_path: Path, data: bytes, reason: str):
    path = tmp_path / "c.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=f"^not valid TOML: .*({reason})") as caught:
        read_toml(path)
    assert caught.value.where == str(path)


def test_a_configuration_is_small(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_bytes(b"#" * (MAX_TOML_BYTES + 1))
    with pytest.raises(ConfigError, match=r"c\.toml is larger than 1048576 bytes"):
        read_toml(path)


CONFIGS = st.builds(
    Config,
    steps=st.integers(-(2**63), 2**63 - 1),
    inner=st.builds(
        Inner,
        lr=st.floats(allow_nan=False, allow_infinity=False),
        name=st.text(st.characters(codec="utf-8")),
        limit=st.none() | st.integers(0, 9),
    ),
    langs=st.lists(st.text(st.characters(codec="utf-8"), max_size=3), max_size=3).map(tuple),
)


@given(CONFIGS)
def test_toml_comes_back(tmp_path_factory: pytest.TempPathFactory, config: Config):
    path = tmp_path_factory.getbasetemp() / "round.toml"
    path.write_bytes(to_toml(config).encode())
    assert load_config(Config, [path]) == config


@given(st.text(max_size=30))
def test_set_raises_nothing_else(text: str):
    with contextlib.suppress(ConfigError):
        assert isinstance(load_config(Config, [], [text]), Config)
