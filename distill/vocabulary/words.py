"""What a tokenizer's model gets to see: the words of sentences, and the steps that BPE and WordPiece take in them."""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import tokenizers

from clip_edge.tokenizer import CLEANERS, Cleaning

Table = dict[str, Any]
Pair = tuple[str, str]

BYTES: Table = {  # a model that joins nothing and knows nothing: every word is spelt out
    "type": "BPE",
    "byte_fallback": True,
    "vocab": {f"<0x{byte:02X}>": byte for byte in range(256)},
    "merges": [],
}


def spelt_words(table: Table, clean: Cleaning, texts: Iterable[str]) -> set[str]:
    """The different words of `texts`, cleaned, normalised and cut as the file says. Added tokens are no words."""
    spelt = cut_words(table | {"model": BYTES}, clean, texts)
    return {bytes(int(piece[1:-1], 16) for piece in word).decode() for word in spelt}


def cut_words(table: Table, clean: Cleaning, texts: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """The words of `texts`, each as the tokens that the model of `table` makes of it; some of them several times."""
    encoder = tokenizers.Tokenizer.from_str(json.dumps(table | {"post_processor": None}))
    if clean == "clip":  # as `Tokenizer` reads it
        encoder.normalizer = None
    added = set(encoder.get_added_tokens_decoder())
    for text in texts:
        encoding = encoder.encode(CLEANERS[clean](text).encode("utf-8", "replace").decode(), add_special_tokens=False)
        numbered = zip(encoding.word_ids, encoding.ids, encoding.tokens, strict=True)
        for _, group in itertools.groupby(numbered, key=itemgetter(0)):
            word = list(group)
            if word[0][1] not in added:
                yield tuple(token for _, _, token in word)


def merges_of(word: Sequence[str], rank: Mapping[Pair, int]) -> set[Pair]:
    """The merges that BPE carries out on one word, given as its characters: always the earliest that is possible, the
    leftmost of several (Sennrich et al. 2016). n characters take n log n steps."""
    parts, done = list(word), set[Pair]()
    before, after = list(range(-1, len(parts) - 1)), list(range(1, len(parts) + 1))
    waiting = [(rank[pair], i) for i, pair in enumerate(itertools.pairwise(parts)) if pair in rank]
    heapq.heapify(waiting)
    while waiting:
        number, left = heapq.heappop(waiting)
        right = after[left]
        if right == len(parts) or rank.get((parts[left], parts[right])) != number:
            continue  # one of both is part of another token by now
        done.add((parts[left], parts[right]))
        parts[left], parts[right] = parts[left] + parts[right], ""
        after[left] = after[right]
        if after[left] < len(parts):
            before[after[left]] = left
        for i in (before[left], left):
            if i >= 0 and after[i] < len(parts) and (found := rank.get((parts[i], parts[after[i]]))) is not None:
                heapq.heappush(waiting, (found, i))
    return done


def pieces_of(word: str, vocab: Mapping[str, int], prefix: str, most_characters: int) -> list[str]:
    """The pieces that WordPiece takes from one word, always the longest that fits, until it ends or none fits: the
    whole word is unknown then, and stays so only while these pieces are there. A word that is too long has none."""
    if len(word) > most_characters:
        return []
    pieces: list[str] = []
    start = 0
    while start < len(word):
        begin = prefix if start else ""
        fitting = (end for end in range(len(word), start, -1) if begin + word[start:end] in vocab)
        end = next(fitting, None)
        if end is None:
            break
        pieces.append(begin + word[start:end])
        start = end
    return pieces
