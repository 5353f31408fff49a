"""Messages, exit codes and the trip of an error between processes."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest

from clip_edge import errors
from clip_edge.errors import (
    BundleError,
    CheckpointError,
    ClipEdgeError,
    ConfigError,
    DataError,
    ExitCode,
    ExportError,
    TrainingError,
    UnavailableError,
    UsageError,
    VerificationError,
    suggestion,
    unknown_name,
)


def test_exit_codes_are_the_documented_ones():
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "NO": 1,
        "USAGE": 2,
        "UNAVAILABLE": 3,
        "INTERRUPTED": 130,
    }


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (UsageError, 2),
        (ConfigError, 2),
        (DataError, 2),
        (BundleError, 1),
        (CheckpointError, 1),
        (TrainingError, 1),
        (ExportError, 1),
        (VerificationError, 1),
        (UnavailableError, 3),
    ],
)
def test_every_kind_ends_with_its_code(kind: type[ClipEdgeError], code: int):
    assert kind("x").exit_code == code


def test_the_tree_in_the_docstring_names_every_error():
    classes = [name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ClipEdgeError)]
    assert len(classes) >= 11
    assert errors.__doc__ is not None
    assert [name for name in classes if name not in errors.__doc__] == []


def test_the_whole_message():
    error = DataError("the picture is empty (0 bytes)", where=Path("a/b.png"), hint="leave it out")
    assert str(error) == "the picture is empty (0 bytes)\n  in: a/b.png\n\nhint: leave it out"
    assert str(DataError("alone")) == "alone"


def test_the_same_message_as_data():
    assert DataError("w", where=Path("a"), hint="h").as_dict() == {
        "type": "DataError",
        "what": "w",
        "where": "a",
        "hint": "h",
    }


def test_an_error_survives_the_trip_between_processes():
    error = pickle.loads(pickle.dumps(BundleError("w", where="a", hint="h")))  # as multiprocessing does
    assert type(error) is BundleError
    assert error.as_dict() == BundleError("w", where="a", hint="h").as_dict()


def test_suggestions_are_near_or_nothing():
    assert suggestion("exprot", ["export", "eval"]) == "export"
    assert suggestion("zzzzzz", ["export", "eval"]) is None


def test_an_unknown_name_lists_the_nearest_first_and_then_all():
    error = unknown_name("student", "nano-tny", ["nano-tiny", "base"])
    assert str(error) == "unknown student: `nano-tny`\n\nhint: did you mean `nano-tiny`? known: base, nano-tiny"
    assert isinstance(error, UsageError)
    far = unknown_name("student", "zzz", ["nano-tiny", "base"], error=ConfigError)
    assert str(far) == "unknown student: `zzz`\n\nhint: known: base, nano-tiny"
    assert isinstance(far, ConfigError)
