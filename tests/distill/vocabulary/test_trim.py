"""Smaller vocabularies: what is kept, and that nothing changed for the sentences that they were made for."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_edge.distill.models.tokenizers import clip_tokenizer, train_tokenizer
from clip_edge.distill.vocabulary.trim import script, trim_tokenizer
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


@pytest.mark.parametrize(("char", "name"), [("a", "LATIN"), ("红", "CJK"), ("ж", "CYRILLIC"), ("\ue000", "")])
def test_scripts(char: str, name: str) -> None:
    assert script(char) == name


def same(whole: Tokenizer, texts: list[str]) -> Tokenizer:
    """The smaller tokenizer, once it cuts `texts` as before."""
    small = trim_tokenizer(whole, texts)
    assert np.array_equal(np.array(small.kept)[small.tokenizer(texts)], whole(texts))
    assert small.tokenizer.vocab_size == len(small.kept)
    return small.tokenizer


def test_a_corpus_may_spell_the_special_words_of_clip() -> None:
    texts = ["a <start_of_text> b", "<end_of_text>", "!<START_OF_TEXT>!", "<start_of_tex"]
    whole = clip_tokenizer()
    small = same(whole, texts)
    assert small.spec.bos_id in small.encode(texts[0])
    assert small(["<start_of_", "of_text>", *texts]).max() < small.vocab_size
    assert trim_tokenizer(small, texts).tokenizer.json_bytes == small.json_bytes


@pytest.mark.parametrize("flags", [{}, {"lstrip": True, "rstrip": True}, {"normalized": True}])
def test_words_end_where_added_tokens_stand(flags: dict[str, bool]) -> None:
    """No word reaches across an added token, so other merges are carried out beside it than in the plain sentence."""
    table = json.loads(train_tokenizer(["abab cdcd abcd dabc <mask>"] * 20, 300, 24).json_bytes)
    table["pre_tokenizer"], table["post_processor"] = table["pre_tokenizer"]["pretokenizers"][1], None
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    table["added_tokens"] = [{"id": len(table["model"]["vocab"]), "content": "<mask>", **plain, **flags}]
    whole = Tokenizer(json.dumps(table).encode(), TextSpec(24, 301, pad_id=0, bos_id=1, eos_id=2, clean="none"))
    small = same(whole, ["ab<mask>ab cd<mask>", "<mask>cd abcd", "d<mask>abc", "<mask>"])
    assert small.encode("ab<mask>ab")[1:2] == small.encode("<mask>")


def word_piece(vocab: list[str]) -> Tokenizer:
    """WordPiece of a few pieces behind a BERT's cleaning."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers

    words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *vocab])}
    encoder = tokenizers.Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    encoder.normalizer, encoder.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return Tokenizer(encoder.to_str().encode(), TextSpec(24, len(words), pad_id=0, bos_id=2, eos_id=3, clean="none"))


def test_unknown_words_stay_unknown() -> None:
    """`ab` fits first in `abd`, and then nothing does; without `ab` the word could be read as `a ##bd`."""
    whole = word_piece(["a", "ab", "x", "##bd", "##e", "unused"])
    small = same(whole, ["abd", "xbd", "ABD e", "a" * 101])
    assert small.encode("abd") == [1]
    assert small.vocab_size == whole.vocab_size - 1


@settings(max_examples=200, deadline=None)
@given(st.sets(st.text("abc", min_size=1, max_size=4)), st.sets(st.text("abc", min_size=1, max_size=3)), st.data())
def test_any_word_piece_vocabulary_shrinks_safely(first: set[str], inside: set[str], data: st.DataObject) -> None:
    whole = word_piece([*sorted(first), *(f"##{piece}" for piece in sorted(inside))])
    same(whole, data.draw(st.lists(st.text("abcd ", min_size=1, max_size=12), min_size=1, max_size=5)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abc <mask>", max_size=20), min_size=1, max_size=5), st.integers(259, 300))
def test_any_bpe_shrinks_safely(texts: list[str], size: int) -> None:
    same(train_tokenizer(["abab cab bca abc cba <mask>"] * 5, size, 24), texts)


def test_a_hostile_word_does_not_take_forever() -> None:
    """Many letters in one word: with a look at all of them for each merge, this would take hours."""
    same(clip_tokenizer(), ["".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=200_000))])


def test_a_kind_that_cannot_be_trimmed() -> None:
    table = json.loads(train_tokenizer(TEXTS, 300, 24).json_bytes)
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "apple": 3}
    table["model"] = {"type": "WordLevel", "vocab": words, "unk_token": "<pad>"}
    table["post_processor"] = None
    spec = TextSpec(24, 4, pad_id=0, bos_id=1, eos_id=2, clean="none")
    with pytest.raises(CheckpointError) as caught:
        trim_tokenizer(Tokenizer(json.dumps(table).encode(), spec), TEXTS)
    assert caught.value.what == "cannot trim a tokenizer of kind `WordLevel`; known: BPE, WordPiece, Unigram"
