"""A `tokenizers` file without the tokens that a corpus does not need; every sentence of the corpus is cut as before.

What is kept, by kind of model:
* BPE: the merges that were carried out on some word of the corpus, and everything of one character. Merges are tried
  in their order, so those that never happened can go without changing the others.
* WordPiece: the pieces that were used, and single characters. The longest piece that fits is taken; if it stays, and
  only others go, it is taken again. So do the pieces before the place where a word turned out to be unknown.
* Unigram: the same, and the piece of the lowest score, from which the cost of an unknown character is derived.
New ids keep the order of the old ones. Nothing here is taken on trust: `model.prove` compares both on the corpus.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from clip_edge.distill.vocabulary.words import Table, cut_words, merges_of, pieces_of, spelt_words
from clip_edge.errors import CheckpointError
from clip_edge.tokenizer import Tokenizer


@dataclass(frozen=True)
class Trimmed:
    """A smaller tokenizer. `kept[new id]` is the old id: the rows of the embedding table that stay."""

    tokenizer: Tokenizer
    kept: tuple[int, ...]


def trim_tokenizer(tokenizer: Tokenizer, texts: Sequence[str]) -> Trimmed:
    """Without the tokens that `texts` do not need; characters that they do not hold are still read piece by piece.

    Raises:
        CheckpointError: a kind of tokenizer that cannot be trimmed.
    """
    table: Table = json.loads(tokenizer.json_bytes)
    kind = table["model"].get("type")
    if kind not in KINDS:
        raise CheckpointError(
            f"cannot trim a tokenizer of kind `{kind}`; known: {', '.join(KINDS)}", where=tokenizer.where
        )
    spec = tokenizer.spec
    frame = {spec.pad_id, spec.eos_id, *spec.begin}
    used = frame | {index for text in texts for index in tokenizer.encode(text)}
    used |= {added["id"] for added in table["added_tokens"]} | framed(table.get("post_processor"))
    keep = sorted(KINDS[kind](table, tokenizer, texts, used))
    new = {old: index for index, old in enumerate(keep)}
    _rewrite(table, new)
    keep = [
        old for old in keep if old < spec.vocab_size
    ]  # steps of merges may have ids behind all others, without rows
    small = replace(
        spec,
        vocab_size=len(keep),
        pad_id=new[spec.pad_id],
        eos_id=new[spec.eos_id],
        bos_id=None if spec.bos_id is None else new[spec.bos_id],
    )
    data = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    return Trimmed(Tokenizer(data, small, where="the trimmed tokenizer"), tuple(keep))


def scripts_of(words: Iterable[str]) -> set[str]:
    """The writings of all characters of `words`."""
    return {script(char) for word in words for char in word}


def script(char: str) -> str:
    """The writing that a character belongs to, in Unicode's words: LATIN, CJK, ARABIC …; "" for one without a name."""
    return unicodedata.name(char, "").partition(" ")[0]


def _of_bpe(table: Table, tokenizer: Tokenizer, texts: Sequence[str], used: set[int]) -> set[int]:
    model = table["model"]
    vocab: dict[str, int] = model["vocab"]
    suffix, prefix = model.get("end_of_word_suffix") or "", model.get("continuing_subword_prefix") or ""
    if prefix or model.get("ignore_merges"):
        raise CheckpointError("cannot trim a BPE with a subword prefix or one that ignores its merges")
    pairs = (one.split(" ", 1) if isinstance(one, str) else one for one in model["merges"])  # two forms are in use
    merges: list[tuple[str, str]] = [(left, right) for left, right in pairs]
    rank = {pair: number for number, pair in enumerate(merges)}
    done: set[tuple[str, str]] = set()
    for word in set(cut_words(table | {"model": model | {"merges": []}}, tokenizer.spec.clean, texts)):
        done |= merges_of(word, rank)
    model["merges"] = [list(pair) for pair in merges if pair in done]
    single = {index for token, index in vocab.items() if len(token.removesuffix(suffix)) == 1 or _is_byte(token)}
    made = {vocab[left + right] for left, right in done}
    unknown = [vocab[model["unk_token"]]] if model.get("unk_token") in vocab else []
    return used | single | made | set(unknown)


def _of_pieces(table: Table, tokenizer: Tokenizer, texts: Sequence[str], used: set[int]) -> set[int]:
    """WordPiece. Ideographs are words of their own, so their form inside a word is never asked for."""
    model = table["model"]
    vocab: dict[str, int] = model["vocab"]
    prefix, most = model.get("continuing_subword_prefix") or "##", model.get("max_input_chars_per_word", 100)
    words = spelt_words(table, tokenizer.spec.clean, texts)
    taken = {vocab[piece] for word in words for piece in pieces_of(word, vocab, prefix, most)}
    scripts = scripts_of(words)
    single = set()
    for token, index in vocab.items():
        char = token.removeprefix(prefix)
        if len(char) == 1 and _is_kept(char, scripts) and not (token != char and script(char) == "CJK"):
            single.add(index)
    return used | taken | single | {vocab[model["unk_token"]]}


def _of_unigram(table: Table, tokenizer: Tokenizer, texts: Sequence[str], used: set[int]) -> set[int]:
    model = table["model"]
    pieces: list[tuple[str, float]] = model["vocab"]
    lowest = min(range(len(pieces)), key=lambda index: pieces[index][1])
    scripts = scripts_of(spelt_words(table, tokenizer.spec.clean, texts))
    single = {
        index
        for index, (piece, _) in enumerate(pieces)
        if _is_byte(piece) or (len(piece) == 1 and _is_kept(piece, scripts))
    }
    return used | single | {lowest, *([] if model.get("unk_id") is None else [model["unk_id"]])}


Keep = Callable[[Table, Tokenizer, Sequence[str], set[int]], set[int]]
KINDS: dict[str, Keep] = {"BPE": _of_bpe, "WordPiece": _of_pieces, "Unigram": _of_unigram}


def _is_kept(char: str, scripts: set[str]) -> bool:
    """A letter of a writing that the corpus uses, or no letter at all: digits and marks belong to every language."""
    return unicodedata.category(char)[0] != "L" or script(char) in scripts


def _is_byte(token: str) -> bool:
    """`<0x0A>`: what stands for a byte where nothing else fits."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _rewrite(table: Table, new: Mapping[int, int]) -> None:
    """Old ids become new ones, wherever a `tokenizers` file has ids."""
    model = table["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][old] for old in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    else:
        names = {index: token for token, index in model["vocab"].items()}
        model["vocab"] = {names[old]: index for old, index in new.items() if old in names}
    for added in table["added_tokens"]:
        added["id"] = new[added["id"]]
    if table.get("post_processor"):
        _rewrite_frame(table["post_processor"], new)


def framed(processor: Table | None) -> set[int]:
    """The ids that a post-processor puts around sentences, for readers of the file other than ours."""
    if not processor:
        return set()
    found = set[int]().union(*(framed(one) for one in processor.get("processors", [])))
    if processor["type"] == "TemplateProcessing":
        found.update(index for special in processor["special_tokens"].values() for index in special["ids"])
    return found | {processor[name][1] for name in ("sep", "cls") if isinstance(processor.get(name), list)}


def _rewrite_frame(processor: Table, new: Mapping[int, int]) -> None:
    for one in processor.get("processors", []):
        _rewrite_frame(one, new)
    for special in processor.get("special_tokens", {}).values() if processor["type"] == "TemplateProcessing" else ():
        special["ids"] = [new[old] for old in special["ids"]]
    for name in ("sep", "cls"):
        if isinstance(processor.get(name), list):
            processor[name][1] = new[processor[name][1]]
