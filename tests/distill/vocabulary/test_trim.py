"""Smaller vocabularies: what is kept, and that nothing changed for the sentences that they were made for."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_edge.distill.models.tokenizers import clip_tokenizer, train_tokenizer
from clip_edge.distill.vocabulary.trim import merges_of, script, trim_tokenizer
from clip_edge.errors import CheckpointError
from clip_edge.tokenizer import TextSpec, Tokenizer

TEXTS = ["a red apple on blue background", "two green apples", "红苹果", "ein Äpfel &amp; zwei", "🙂 apples"]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer([*TEXTS, "a yellow banana under the purple umbrella", "黄香蕉"] * 3, 420, 24)


def test_clips_vocabulary_shrinks_to_what_is_needed() -> None:
    whole = clip_tokenizer()
    small = trim_tokenizer(whole, TEXTS)
    assert small.tokenizer.vocab_size < 700  # 512 letters, and a few words
    assert np.array_equal(np.array(small.kept)[small.tokenizer(TEXTS)], whole(TEXTS))
    spec = small.tokenizer.spec
    assert [small.kept[index] for index in (spec.pad_id, spec.bos_id or 0, spec.eos_id)] == [0, 49406, 49407]


def test_other_readers_of_the_file_find_the_same_frame(trained: Tokenizer) -> None:
    import tokenizers

    small = trim_tokenizer(trained, TEXTS).tokenizer
    ids = tokenizers.Tokenizer.from_buffer(small.json_bytes).encode(TEXTS[0]).ids
    assert ids == [small.spec.bos_id, *small.encode(TEXTS[0]), small.spec.eos_id]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_every_string_still_encodes(text: str) -> None:
    whole = train_tokenizer(TEXTS * 3, 330, 24)
    small = trim_tokenizer(whole, TEXTS).tokenizer
    assert bool(small.encode(text)) == bool(whole.encode(text))
    assert small([text]).max() < small.vocab_size


def test_trimming_twice_changes_nothing_more(trained: Tokenizer) -> None:
    once = trim_tokenizer(trained, TEXTS).tokenizer
    assert trim_tokenizer(once, TEXTS).tokenizer.json_bytes == once.json_bytes


def test_merges_happen_in_their_order() -> None:
    rank = {("b", "c"): 0, ("a", "b"): 1, ("a", "bc"): 2, ("d</w>", "x"): 3}
    assert merges_of("abcd", "</w>", rank) == {("b", "c"), ("a", "bc")}
    assert merges_of("abab", "", {("a", "b"): 0, ("ab", "ab"): 1}) == {("a", "b"), ("ab", "ab")}
    assert merges_of("a", "</w>", rank) == set()


@pytest.mark.parametrize(("char", "name"), [("a", "LATIN"), ("红", "CJK"), ("ж", "CYRILLIC"), ("\ue000", "")])
def test_scripts(char: str, name: str) -> None:
    assert script(char) == name


def test_a_kind_that_cannot_be_trimmed() -> None:
    table = json.loads(train_tokenizer(TEXTS, 300, 24).json_bytes)
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "apple": 3}
    table["model"] = {"type": "WordLevel", "vocab": words, "unk_token": "<pad>"}
    table["post_processor"] = None
    spec = TextSpec(24, 4, pad_id=0, bos_id=1, eos_id=2, clean="none")
    with pytest.raises(CheckpointError) as caught:
        trim_tokenizer(Tokenizer(json.dumps(table).encode(), spec), TEXTS)
    assert caught.value.what == "cannot trim a tokenizer of kind `WordLevel`; known: BPE, WordPiece, Unigram"
