"""The golden set: a lossless trip through its file, and nothing but our error for any other file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_edge.bundle import GOLDEN, Bundle, Manifest
from clip_edge.errors import BundleError, CheckpointError
from clip_edge.golden import Golden, read_examples, read_golden

Tensors = dict[str, np.ndarray]
WHERE = Path("golden.safetensors")


@pytest.fixture(scope="session")
def manifest(tiny_bundle: Path) -> Manifest:
    return Bundle.open(tiny_bundle).manifest


@pytest.fixture(scope="session")
def golden(tiny_bundle: Path, manifest: Manifest) -> Golden:
    return read_golden((tiny_bundle / GOLDEN).read_bytes(), manifest, WHERE)


def test_the_set_holds_real_and_hard_cases(golden: Golden) -> None:
    shapes = {image.shape[:2] for image in golden.images}
    assert len(golden.images) >= 16 + 2
    assert {(40, 30), (40, 31), (1, 1), (3, 2), (1, 40)} <= shapes
    assert len(golden.texts) >= 32
    assert {"", "a red apple", "一只猫", "🍎"} <= set(golden.texts)
    assert max(map(len, golden.texts)) > 1000
    assert any("&lt;" in text for text in golden.texts)


def test_the_trip_through_the_file_loses_nothing(golden: Golden, manifest: Manifest) -> None:
    data = golden.to_bytes()
    again = read_golden(data, manifest, WHERE)
    assert again.to_bytes() == data
    assert again.texts == golden.texts
    assert all(np.array_equal(a, b) for a, b in zip(again.images, golden.images, strict=True))
    for field in dataclasses.fields(Golden)[1:]:
        if field.name != "texts":
            assert np.array_equal(getattr(again, field.name), getattr(golden, field.name))


def remove(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def put(name: str, value: np.ndarray) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: value})


def words(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("pixels"), "missing tensor: `pixels`"),
        (remove("image.000"), "missing tensor: `image.000`"),
        (put("more", np.zeros(1)), "unknown tensor: `more`"),
        (
            put("image.000", np.zeros((2, 2, 4), np.uint8)),
            "`image.000` must be uint8 of shape (any, any, 3); found uint8 (2, 2, 4)",
        ),
        (
            put("image.000", np.zeros((0, 2, 3), np.uint8)),
            "`image.000` must be uint8 of shape (any, any, 3); found uint8 (0, 2, 3)",
        ),
        (
            put("pixels", np.zeros((18, 32, 32, 3), np.float32)),
            "`pixels` must be uint8 of shape (18, 32, 32, 3); found float32",
        ),
        (put("image_embeds", np.full((18, 24), np.nan, np.float32)), "a reference embedding is not finite"),
        (
            put("image_embeds", np.zeros((18, 25), np.float32)),
            "`image_embeds` must be float32 of shape (18, 24); found",
        ),
        (put("texts", words("{}")), "`texts` must be a list of strings"),
        (put("texts", words("[1]")), "`texts` must be a list of strings"),
        (put("texts", words("[]")), "1 to 4096 sentences expected; found 0"),
        (put("texts", words("[")), "`texts` is not valid JSON: "),
        (put("texts", words('["\\ud800"]')), "`texts` is not valid JSON: "),
        (put("texts", np.array([255], np.uint8)), "`texts` is not valid JSON: "),
    ],
)
def test_a_set_that_does_not_fit_is_refused(
    golden: Golden, manifest: Manifest, change: Callable[[Tensors], object], message: str
) -> None:
    tensors = safetensors.numpy.load(golden.to_bytes())
    change(tensors)
    with pytest.raises(BundleError) as caught:
        read_golden(safetensors.numpy.save(tensors), manifest, WHERE)
    assert caught.value.what.startswith(message)


@settings(max_examples=200)
@given(data=st.data())
def test_any_bytes_give_a_set_or_our_error(golden: Golden, manifest: Manifest, data: st.DataObject) -> None:
    whole = bytearray(golden.to_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")  # damage in the header is where parsers break
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, header + 200))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    try:
        assert read_golden(bytes(whole[:cut]), manifest, WHERE).texts
    except BundleError as error:
        str(error).encode()


def test_examples_are_optional_and_checked(tiny_student: Path, tmp_path: Path) -> None:
    images, texts = read_examples(tiny_student / "examples.safetensors")
    assert [image.shape for image in images] == [(40, 30, 3), (40, 31, 3)]
    assert texts == ("a red apple", "一只猫")
    assert read_examples(tmp_path / "none") == ((), ())
    (tmp_path / "broken").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="not a safetensors file: "):
        read_examples(tmp_path / "broken")
