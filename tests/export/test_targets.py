"""The table of targets: near misses are named, a missing package says how to install it."""

from __future__ import annotations

import dataclasses

import pytest

from clip_edge.errors import ConfigError, UnavailableError, UsageError
from clip_edge.export.targets import TARGETS, file_name, find_target


def test_unknown_target_names_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        find_target("onxn", "fp32")
    known = ", ".join(sorted(TARGETS))
    assert str(caught.value) == f"unknown target: `onxn`\n\nhint: did you mean `onnx`? known: {known}"


def test_unknown_precision_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        find_target("onnx", "fp23")
    assert str(caught.value) == (
        "unknown precision of target `onnx`: `fp23`\n\nhint: did you mean `fp32`? known: fp16, fp32, int4, int8"
    )


def test_missing_package_is_exit_3(monkeypatch: pytest.MonkeyPatch) -> None:
    ghost = dataclasses.replace(TARGETS["onnx"], packages=("no_such_package",))
    monkeypatch.setitem(TARGETS, "onnx", ghost)
    with pytest.raises(UnavailableError) as caught:
        find_target("onnx", "fp32")
    assert caught.value.exit_code == 3
    assert str(caught.value) == (
        "target `onnx` needs the package `no_such_package`, which is not installed\n"
        "\nhint: pip install 'clip-edge[export]'"
    )


def test_files_are_named_as_hugging_face_names_them() -> None:
    target = TARGETS["onnx"]
    assert file_name(target, "image", "fp32") == "onnx/vision_model.onnx"
    assert file_name(target, "text", "int8") == "onnx/text_model_int8.onnx"
