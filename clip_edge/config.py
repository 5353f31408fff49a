"""Recipe configurations: a frozen dataclass, filled from TOML files and `--set key=value`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from clip_edge.errors import ConfigError
from clip_edge.files import read_bounded
from clip_edge.schema import as_dict, build

T = TypeVar("T")

MAX_TOML_BYTES = 1 << 20  # a configuration is read by people; a megabyte is not one


def load_config(cls: type[T], files: Sequence[Path], overrides: Sequence[str] = ()) -> T:
    """A `cls` from its own defaults, then each TOML file in turn, then `--set a.b=v` overrides.

    Raises:
        ConfigError: unreadable TOML, unknown key (with the nearest name), wrong type or value.
    """
    merged: dict[str, Any] = {}
    for file in files:
        _merge(merged, read_toml(file))
    for override in overrides:
        _merge(merged, _parse_override(override))
    sources = [str(file) for file in files] + (["--set"] if overrides else [])
    return build(cls, merged, where=", ".join(sources) or "the defaults", hint="see all keys with --dry-run")


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file of at most one megabyte."""
    data = read_bounded(path, MAX_TOML_BYTES, error=ConfigError)
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as problem:  # broken syntax or UTF-8, endless digits or brackets
        raise ConfigError(f"not valid TOML: {problem}", where=path) from problem


def to_toml(config: object) -> str:
    """A configuration as TOML that `load_config` reads back; keys whose value is None are left out."""
    import tomli_w  # an extra of `distill`; the thin runtime never writes TOML

    return tomli_w.dumps(_without_none(as_dict(config)))


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set needs key=value; found `{text}`", hint="for example: --set optimizer.lr=1e-3")
    try:
        parsed = tomllib.loads(f"value = {raw}")
        value = parsed["value"] if len(parsed) == 1 else raw
    except (ValueError, RecursionError):
        value = raw  # a bare word is a string: --set student=nano-s
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _merge(into: dict[str, Any], update: dict[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
