"""Sentences to rows of ids, and files that are no tokenizers."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import json
import pickle
import subprocess
import sys
from pathlib import Path

import ftfy
import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from clip_edge.errors import ArtifactError, UsageError
from clip_edge.schema import as_dict, build
from clip_edge.tokenizer import TextSpec, Tokenizer, clean_clip, clean_whitespace

SPEC = TextSpec(context_length=6, vocab_size=259, pad_id=0, bos_id=1, eos_id=2, clean="none")


def bytes_tokenizer(spec: TextSpec = SPEC) -> Tokenizer:
    """One id per byte, from 3 on."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {letter: i + 3 for i, letter in enumerate(alphabet)}
    encoder = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    encoder.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return Tokenizer.load(encoder.to_str().encode(), spec)


def test_row_is_bos_ids_eos_padding() -> None:
    rows = bytes_tokenizer()(["ab", ""])
    assert rows.dtype == np.int64
    a, b = bytes_tokenizer().encode("ab")
    assert rows.tolist() == [[1, a, b, 2, 0, 0], [1, 2, 0, 0, 0, 0]]


def test_no_sentences_give_no_rows() -> None:
    assert bytes_tokenizer()([]).shape == (0, 6)


@given(st.text(max_size=40))
def test_every_row_has_one_frame_and_keeps_eos(text: str) -> None:
    (row,) = bytes_tokenizer()([text])
    end = int(np.argmax(row == 2))
    assert row[0] == 1
    assert row[end] == 2
    assert (row[end + 1 :] == 0).all()
    assert end == min(len(text.encode("utf-8", "replace")) + 1, 5)


def test_settings_inside_the_file_do_not_change_rows() -> None:
    plain = bytes_tokenizer()
    encoder = tokenizers.Tokenizer.from_buffer(plain.json_bytes)
    encoder.enable_padding(length=50, pad_id=7)
    encoder.enable_truncation(2)
    assert (Tokenizer.load(encoder.to_str().encode(), SPEC)(["abc"]) == plain(["abc"])).all()


def test_lone_surrogate_is_a_question_mark() -> None:
    tokenizer = bytes_tokenizer()
    assert (tokenizer(["a\ud800"]) == tokenizer(["a?"])).all()


def test_one_string_instead_of_a_list() -> None:
    with pytest.raises(UsageError) as caught:
        bytes_tokenizer()("abc")
    assert str(caught.value) == "the tokenizer takes a list of sentences; found one string\n\nhint: write [text]"


def test_ids_beyond_the_vocabulary() -> None:
    small = dataclasses.replace(SPEC, vocab_size=70)
    with pytest.raises(ArtifactError) as caught:
        bytes_tokenizer(small)(["z"])
    assert caught.value.what == "expected token ids below 70; found 92"
    assert caught.value.hint == "tokenizer.json and the model beside it do not belong together"


@pytest.mark.parametrize("data", [b"", b"{}", b"nonsense", b"\xff\x00", b'{"version":"1.0","model":{"type":"BPE"}}'])
def test_files_that_are_no_tokenizers(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(ArtifactError, match="not a tokenizers file") as caught:
        Tokenizer.load(tmp_path / "tokenizer.json", SPEC)
    assert caught.value.where == str(tmp_path / "tokenizer.json")


@given(st.data())
def test_damaged_files_raise_or_load(data: st.DataObject) -> None:
    """A changed byte never ends in anything but our own error or a tokenizer that still works."""
    good = bytes_tokenizer().json_bytes
    place = data.draw(st.integers(0, len(good) - 1))
    bad = good[:place] + bytes([data.draw(st.integers(0, 255))]) + good[place + 1 :]
    with contextlib.suppress(ArtifactError):
        Tokenizer.load(bad, SPEC)(["ab"])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"missing file: tokenizer\.json"):
        Tokenizer.load(tmp_path / "tokenizer.json", SPEC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_length": 2}, "`context_length` must lie in 3..4096; found 2"),
        ({"vocab_size": 1 << 21}, "`vocab_size` must lie in 3..1048576; found 2097152"),
        ({"eos_id": 259}, "`eos_id` must lie in 0..258; found 259"),
    ],
)
def test_settings_out_of_range(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=r"must lie in") as caught:
        dataclasses.replace(SPEC, **change)
    assert str(caught.value) == message


def test_settings_survive_json() -> None:
    assert build(TextSpec, json.loads(json.dumps(as_dict(SPEC))), where="here") == SPEC


def test_travels_between_processes() -> None:
    tokenizer = bytes_tokenizer()
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert (copy(["abc"]) == tokenizer(["abc"])).all()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  A\t Photo\nof\u00a0a CAT ", "a photo of a cat"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("schÃ¶n", "schön"),
        ("", ""),
    ],
)
def test_clip_cleaning(text: str, clean: str) -> None:
    assert clean_clip(text) == clean


@given(st.text(st.characters(max_codepoint=127), max_size=60) | st.text(max_size=20))
def test_text_that_skips_ftfy_is_what_ftfy_gives(text: str) -> None:
    assert clean_whitespace(text) == " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def test_needs_neither_torch_nor_open_clip() -> None:
    code = """
import sys
from clip_edge.tokenizer import TextSpec, Tokenizer
Tokenizer.load(sys.stdin.buffer.read(), TextSpec(6, 259, 0, 1, 2, "clip"))(["A Cat"])
print(sorted({"torch", "open_clip", "timm", "onnxruntime"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], input=bytes_tokenizer().json_bytes, capture_output=True, check=True
    )
    assert done.stdout.strip() == b"[]"
