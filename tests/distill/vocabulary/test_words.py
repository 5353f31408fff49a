"""The steps of BPE and WordPiece inside a word, against the package that takes them."""

from __future__ import annotations

import json

import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models

from clip_edge.distill.models.tokenizers import train_tokenizer
from clip_edge.distill.vocabulary.words import cut_words, merges_of, pieces_of, spelt_words

PAIRS = st.lists(st.tuples(st.text("ab", min_size=1, max_size=3), st.text("ab", min_size=1, max_size=3)), max_size=12)


def test_merges_happen_in_their_order() -> None:
    rank = {("b", "c"): 0, ("a", "b"): 1, ("a", "bc"): 2, ("d</w>", "x"): 3}
    assert merges_of(["a", "b", "c", "d</w>"], rank) == {("b", "c"), ("a", "bc")}
    assert merges_of("abab", {("a", "b"): 0, ("ab", "ab"): 1}) == {("a", "b"), ("ab", "ab")}
    assert merges_of(["a</w>"], rank) == merges_of([], rank) == set()


@given(PAIRS, st.text("ab", min_size=1, max_size=30))
def test_no_other_merge_is_needed(pairs: list[tuple[str, str]], word: str) -> None:
    """With the merges that were carried out alone, `tokenizers` makes the same tokens; hostile orders included."""
    merges: list[tuple[str, str]] = []
    vocab = {"a": 0, "b": 1}
    for left, right in dict.fromkeys(pairs):
        if left in vocab and right in vocab:
            merges.append((left, right))
            vocab.setdefault(left + right, len(vocab))
    done = merges_of(word, {pair: number for number, pair in enumerate(merges)})
    whole, small = (
        tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=some))
        for some in (merges, [pair for pair in merges if pair in done])
    )
    assert small.encode(word).tokens == whole.encode(word).tokens


@given(st.sets(st.text("abc", min_size=1, max_size=4)), st.text("abcd", min_size=1, max_size=12))
def test_pieces_are_those_of_word_piece(pieces: set[str], word: str) -> None:
    vocab = {"[UNK]": 0} | {name: 1 + i for i, name in enumerate([*pieces, *(f"##{piece}" for piece in pieces)])}
    found = pieces_of(word, vocab, "##", 100)
    read = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]")).encode(word).tokens
    whole = "".join(piece.removeprefix("##") for piece in found) == word
    assert read == (found if whole else ["[UNK]"])


def test_a_word_that_is_too_long_has_no_pieces() -> None:
    assert pieces_of("aaa", {"a": 0, "##a": 1}, "##", 3) == ["a", "##a", "##a"]
    assert pieces_of("aaaa", {"a": 0, "##a": 1}, "##", 3) == []


def test_words_are_cut_where_the_model_sees_them_cut() -> None:
    table = json.loads(train_tokenizer(["a red apple"], 300, 24).json_bytes)
    plain = {"lstrip": False, "rstrip": True, "normalized": False, "single_word": False, "special": True}
    table["added_tokens"] = [{"id": 300, "content": "<mask>", **plain}]
    assert spelt_words(table, "none", ["Ａ  RED<mask> apple", "", "<mask>"]) == {"a", "\u0120red", "apple"}
    joined = table | {"model": table["model"] | {"merges": []}}
    assert list(cut_words(joined, "none", ["é a"])) == [("Ã", "©"), ("\u0120", "a")]
