"""The file format: exact round trips, small rows, and refusal of everything damaged."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity, normalize

from clip_edge.distill.reinforce.augment import Params
from clip_edge.distill.reinforce.sidecar import (
    Caption,
    Header,
    Row,
    Shape,
    Sidecar,
    Skipped,
    encode_rows,
    merge,
    pack,
    write_sidecar,
)
from clip_edge.errors import ArtifactError

LANGUAGES = ("en", "zh")
SKIPPED = (Skipped("bad", "s", "cut"),)

captions = st.builds(Caption, st.text(max_size=20), st.sampled_from(LANGUAGES), st.booleans(), st.just(-1))
numbers = st.floats(-1000, 1000, width=32)
params = st.builds(
    Params,
    st.tuples(*[st.integers(0, 2**31 - 1)] * 4),
    st.booleans(),
    st.tuples(*[st.integers(0, 13)] * 2),
    st.tuples(numbers, numbers),
)
rows = st.lists(
    st.builds(
        Row,
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        st.integers(0, 2**31 - 1),
        st.binary(min_size=32, max_size=32),
        st.tuples(st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1)),
        st.tuples(params, params, params),
        st.lists(captions, max_size=4).map(tuple),
    ),
    max_size=5,
)


def tensors_of(found: list[Row], shape: Shape, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    tensors = pack(found, shape)
    count = sum(len(row.captions) for row in found)
    for k, dim in enumerate(shape.dims):
        tensors |= encode_rows(f"image.{k}", normalize(torch.randn(len(found), 3, dim), dim=-1), shape.dtype)
        tensors |= encode_rows(f"text.{k}", normalize(torch.randn(count, dim), dim=-1), shape.dtype)
    return tensors


def a_shape(dtype: str = "bf16") -> Shape:
    return Shape(3, 2, (16, 8), dtype, LANGUAGES)  # type: ignore[arg-type]


def some_rows(count: int, start: int = 0) -> list[Row]:
    one = Params((1, 2, 3, 4), True, (5, 13), (-0.1, 30.0))
    made = Caption("a made one", "zh", True, -1)
    return [
        Row(f"key {i}", i, bytes([i % 256] * 32), (40 + i, 50), (one,) * 3, (Caption("true", "en", False, -1), made))
        for i in range(start, start + count)
    ]


@given(rows, rows, st.sampled_from(["bf16", "int8"]))
def test_everything_that_is_stored_comes_back(tmp_path_factory, first, second, dtype) -> None:
    shape = a_shape(dtype)
    parts = [tensors_of(first, shape), tensors_of(second, shape, 1)]
    path = tmp_path_factory.mktemp("sidecar") / "s.reinforce.safetensors"
    write_sidecar(path, merge(parts), Header(1, "job", "s", 9, SKIPPED))
    stored = Sidecar(path, shape)
    assert stored.header == Header(1, "job", "s", 9, SKIPPED)
    assert len(stored) == len(first) + len(second)
    caption_number = 0
    for i, row in enumerate(first + second):
        assert stored.keys[i] == row.key
        assert stored.positions[i] == row.position
        assert stored.picture(i) == (row.image_sha256, row.size)
        assert tuple(stored.params(i, a) for a in range(3)) == row.params
        for caption in row.captions:
            text = caption.text.encode("utf-8", "replace").decode() if caption.synthetic else ""
            expected = Caption(text, caption.language, caption.synthetic, caption_number)
            assert stored.captions(i)[caption_number - stored.captions(i)[0].number] == expected
            caption_number += 1


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    shape = a_shape()
    for name in ("a", "b"):
        write_sidecar(tmp_path / name, tensors_of(some_rows(4), shape), Header(1, "job", "s", 4, SKIPPED))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(("dtype", "least"), [("bf16", 0.99999), ("int8", 0.9998)])
@pytest.mark.parametrize("dim", [48, 512, 1024])
def test_stored_rows_keep_their_direction_and_length(dtype: str, least: float, dim: int) -> None:
    torch.manual_seed(0)
    rows_ = normalize(torch.randn(2000, dim), dim=-1)
    found = encode_rows("x", rows_, dtype)  # type: ignore[arg-type]
    decoded = found["x"].float() * (found["x.scale"][:, None] if dtype == "int8" else 1)
    assert float(cosine_similarity(decoded, rows_).min()) >= least
    assert float((decoded.norm(dim=-1) - 1).abs().max()) < (1e-6 if dtype == "int8" else 4e-3)


def test_int8_takes_a_row_of_zeros_and_one_large_value() -> None:
    rows_ = torch.zeros(2, 64)
    rows_[1, 5] = 1.0
    found = encode_rows("x", rows_, "int8")
    decoded = found["x"].float() * found["x.scale"][:, None]
    assert torch.equal(decoded, rows_)


def test_int8_is_less_than_half_of_what_datacompdr_stores(tmp_path: Path) -> None:
    """DataCompDR keeps bf16 tensors, the parameters as JSON and a tar header per member, all padded to 512 bytes."""
    shape = Shape(5, 2, (512, 512), "int8", ("en",))
    one = Params((113, 78, 301, 297), False, (3, 5), (0.13, -9.0))
    spoken = [Caption("a photo of a cat that sleeps on a chair", "en", made, -1) for made in (False, True, True)]
    pictures = [Row(f"{i:09d}", i, bytes(32), (512, 384), (one,) * 5, tuple(spoken)) for i in range(500)]
    tensors = pack(pictures, shape)
    for k in range(2):
        tensors |= encode_rows(f"image.{k}", torch.randn(500, 5, 512), "int8")
        tensors |= encode_rows(f"text.{k}", torch.randn(1500, 512), "int8")
    write_sidecar(tmp_path / "s", tensors, Header(1, "job", "s", 500))
    ours = (tmp_path / "s").stat().st_size / 500
    members = (
        (5 + 1 + 2) * 2 * 512 * 2,
        len(json.dumps({"param_aug": [[[113, 78, 301, 297], [[3, 30.45], [5, -9.0]]]] * 5})),
        len(json.dumps({"syn_text": [spoken[1].text] * 2})),
    )
    theirs = sum(512 + -(-size // 512) * 512 for size in members)
    assert ours <= 0.5 * theirs


def test_a_sidecar_travels_to_workers_by_name(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "s", tensors_of(some_rows(300), a_shape()), Header(1, "job", "s", 300))
    stored = Sidecar(tmp_path / "s", a_shape())
    data = pickle.dumps(stored)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert torch.equal(again.image_embeds(7, 1)[0], stored.image_embeds(7, 1)[0])


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "shard-000000.reinforce.safetensors"
    write_sidecar(path, tensors_of(some_rows(3), a_shape()), Header(1, "job", "s", 3))
    return path


@pytest.mark.parametrize("cut", [0, 5, 100, 2000, -1])
def test_a_cut_file_is_refused(good: Path, cut: int) -> None:
    data = good.read_bytes()
    good.write_bytes(data[:cut])
    with pytest.raises(ArtifactError) as problem:
        Sidecar(good, a_shape())
    assert str(problem.value).startswith("the sidecar is damaged: ")
    assert str(problem.value).endswith(
        f"\n  in: {good}\n\nhint: delete this file and run `clip-edge reinforce` again: it makes what is missing"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": Shape(4, 2, (16, 8), "bf16", LANGUAGES)}, "`box` should be torch.int32 (3, 4, 4); found"),
        ({"shape": Shape(3, 2, (16,), "bf16", LANGUAGES)}, "expected the tensors of 1 teachers; `image.1` differs"),
        ({"shape": Shape(3, 2, (16, 8), "bf16", ("en",))}, "a caption is of a language that the manifest does not"),
        (
            {"shape": Shape(3, 2, (16, 8), "int8", LANGUAGES)},
            "expected the tensors of 2 teachers; `image.0.scale` diff",
        ),
    ],
)
def test_another_shape_is_refused(good: Path, change: dict, message: str) -> None:
    with pytest.raises(ArtifactError, match=r"^the sidecar is damaged: ") as problem:
        Sidecar(good, change["shape"])
    assert message in str(problem.value)


def test_running_ends_that_leave_their_blob_are_refused(tmp_path: Path) -> None:
    for name in ("keys.ends", "texts.ends", "captions.ends"):
        tensors = tensors_of(some_rows(3), a_shape())
        tensors[name][1] = 10_000
        write_sidecar(tmp_path / "s", tensors, Header(1, "job", "s", 3))
        with pytest.raises(ArtifactError, match=f"`{name}` does not end at"):
            Sidecar(tmp_path / "s", a_shape())


def test_an_unknown_operation_is_refused(tmp_path: Path) -> None:
    tensors = tensors_of(some_rows(3), a_shape())
    tensors["ops"][0, 0, 0] = 14
    write_sidecar(tmp_path / "s", tensors, Header(1, "job", "s", 3))
    with pytest.raises(ArtifactError, match="operation 14 of row 0 is unknown"):
        Sidecar(tmp_path / "s", a_shape()).params(0, 0)


@given(st.data())
def test_random_bytes_never_do_anything_but_be_refused_or_read(tmp_path_factory, data) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "s"
    write_sidecar(path, tensors_of(some_rows(2), a_shape()), Header(1, "job", "s", 2))
    whole = bytearray(path.read_bytes())
    header = struct.unpack("<Q", whole[:8])[0]
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, header + 200))
        whole[place] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        stored = Sidecar(path, a_shape())
        for i in range(len(stored)):
            assert len(stored.image_embeds(i, 0)) == 2
            assert len(stored.captions(i)) >= 0
            assert np.isfinite(stored.params(i, 0).box).all()
    except ArtifactError:
        pass


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_vectors_are_read_with_length_one(tmp_path: Path, dtype: str) -> None:
    write_sidecar(tmp_path / "s", tensors_of(some_rows(50), a_shape(dtype)), Header(1, "job", "s", 50))
    stored = Sidecar(tmp_path / "s", a_shape(dtype))
    for i in range(50):
        for vector in (*stored.image_embeds(i, 1), *stored.text_embeds(i)):
            assert float(vector.norm()) == pytest.approx(1, abs=1e-6)
