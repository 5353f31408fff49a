"""Frozen dataclasses from untrusted dictionaries: recipes, students, manifests and preprocess files.

One mechanism for all of them: unknown keys are errors with the nearest name, types are checked,
and every problem is reported at once.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from clip_edge.errors import ClipEdgeError, ConfigError, suggestion

T = TypeVar("T")


def build(
    cls: type[T],
    data: object,
    *,
    where: Path | str,
    error: type[ClipEdgeError] = ConfigError,
    hint: str | None = None,
) -> T:
    """An instance of the dataclass `cls` filled from `data`.

    Supports bool, int, float, str, Path, None, Literal, unions, tuple[X, ...], list, dict[str, X], Any
    and nested dataclasses. A dataclass may check its own values in `__post_init__` by raising ValueError.

    Raises:
        error: with every problem found, one per line.
    """
    problems: list[str] = []
    value = _convert(cls, data, "", problems)
    if problems:
        head = problems[0] if len(problems) == 1 else f"{len(problems)} problems:\n  " + "\n  ".join(problems)
        raise error(head, where=where, hint=hint)
    return typing.cast(T, value)


def as_dict(value: object) -> dict[str, Any]:
    """A dataclass as a plain dictionary that `build` reads back; paths become strings, tuples become lists."""
    plain = _plain(value)
    assert isinstance(plain, dict)
    return plain


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _convert(kind: Any, value: object, key: str, problems: list[str]) -> Any:
    """`value` as `kind`, or None after adding to `problems`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or kind is object:
        return value
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(typing.cast(type, kind), value, key, problems)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, key, problems)
    if origin is typing.Literal:
        if value in arguments and type(value) in {type(choice) for choice in arguments}:
            return value
        near = suggestion(str(value), [str(choice) for choice in arguments])
        tip = f" (did you mean `{near}`?)" if near else ""
        choices = ", ".join(str(choice) for choice in arguments)
        problems.append(f"`{key}` must be one of {choices}; found `{value}`{tip}")
        return None
    if origin in (tuple, list):
        return _convert_sequence(origin, arguments, value, key, problems)
    if origin is dict:
        if not isinstance(value, Mapping):
            return _wrong("a table", value, key, problems)
        return {str(name): _convert(arguments[1], item, f"{key}.{name}", problems) for name, item in value.items()}
    return _convert_scalar(kind, value, key, problems)


def _convert_dataclass(kind: type, value: object, key: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping):
        return _wrong("a table", value, key, problems)
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    prefix = f"{key}." if key else ""
    before = len(problems)
    for name in value:
        if name not in fields:
            near = suggestion(str(name), fields)
            problems.append(f"unknown key: `{prefix}{name}`" + (f" (did you mean `{prefix}{near}`?)" if near else ""))
    filled = {}
    for name, field in fields.items():
        if name in value:
            filled[name] = _convert(hints[name], value[name], prefix + name, problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"missing key: `{prefix}{name}`")
    if len(problems) > before:
        return None
    try:
        return kind(**filled)
    except ValueError as problem:
        problems.append(f"`{key}`: {problem}" if key else str(problem))
        return None


def _convert_union(choices: tuple[Any, ...], value: object, key: str, problems: list[str]) -> Any:
    if value is None and type(None) in choices:
        return None
    choices = tuple(choice for choice in choices if choice is not type(None))
    for choice in choices:
        trial: list[str] = []
        converted = _convert(choice, value, key, trial)
        if not trial:
            return converted
    if len(choices) == 1:
        return _convert(choices[0], value, key, problems)
    return _wrong(" or ".join(getattr(choice, "__name__", str(choice)) for choice in choices), value, key, problems)


def _convert_sequence(origin: type, arguments: tuple[Any, ...], value: object, key: str, problems: list[str]) -> Any:
    if not isinstance(value, list | tuple):
        return _wrong("a list", value, key, problems)
    if origin is list or arguments[-1] is Ellipsis:
        kinds = (arguments[0],) * len(value)
    else:
        kinds = arguments
        if len(kinds) != len(value):
            return _wrong(f"a list of {len(kinds)} values", value, key, problems)
    items = [
        _convert(kind, item, f"{key}[{i}]", problems) for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    ]
    return origin(items)


def _convert_scalar(kind: Any, value: object, key: str, problems: list[str]) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        finite = abs(value) <= sys.float_info.max  # also false for NaN and for integers that no float can hold
        return float(value) if finite else _wrong("a finite number", value, key, problems)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    names = {float: "a number", int: "a whole number", str: "a string", bool: "true or false", Path: "a path"}
    return _wrong(names.get(kind, getattr(kind, "__name__", str(kind))), value, key, problems)


def _wrong(expected: str, value: object, key: str, problems: list[str]) -> None:
    try:
        found = repr(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        found = "a huge number"
    problems.append(
        f"`{key or 'the file'}` must be {expected}; found {found if len(found) < 60 else found[:57] + '...'}"
    )
