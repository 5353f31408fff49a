"""Where tokenizers come from: CLIP's own vocabulary, or a byte-level BPE trained on the captions at hand."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from clip_edge.errors import ConfigError, UnavailableError
from clip_edge.tokenizer import TextSpec, Tokenizer

CLIP_VOCAB_SIZE = 49408  # 256 bytes, 256 bytes that end a word, 48,894 merges, BOS and EOS
CLIP_MERGES = CLIP_VOCAB_SIZE - 2 * 256 - 2
CLIP_BOS, CLIP_EOS = CLIP_VOCAB_SIZE - 2, CLIP_VOCAB_SIZE - 1
WORD_END = "</w>"

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
MIN_TRAINED_VOCAB = 256 + 3  # every byte, so that every string encodes, and the three special ids


@lru_cache(maxsize=4)
def clip_tokenizer(context_length: int = 77) -> Tokenizer:
    """The tokenizer of OpenAI's CLIP, open_clip and MobileCLIP: the same ids as `open_clip.tokenize` on every string.

    Raises:
        UnavailableError: open_clip, whose package carries the vocabulary, is not installed.
    """
    spec = TextSpec(context_length, CLIP_VOCAB_SIZE, pad_id=0, bos_id=CLIP_BOS, eos_id=CLIP_EOS, clean="clip")
    return Tokenizer(_clip_json(), spec)


def train_tokenizer(captions: Iterable[str], vocab_size: int, context_length: int) -> Tokenizer:
    """A lower-casing byte-level BPE of at most `vocab_size` ids, learnt from `captions`.

    The same captions give the same bytes. Every string encodes, in any language, and no string encodes to the
    special ids 0 (padding), 1 (BOS) and 2 (EOS).

    Raises:
        ConfigError: `vocab_size` leaves no room for the 256 bytes.
    """
    if vocab_size < MIN_TRAINED_VOCAB:
        raise ConfigError(
            f"a trained tokenizer needs at least {MIN_TRAINED_VOCAB} ids; found vocab_size = {vocab_size}",
            hint="1000 to 8000 suit a small caption set",
        )
    encoder = tokenizers.Tokenizer(models.BPE())
    encoder.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    encoder.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    encoder.train_from_iterator(captions, trainer)
    encoder.post_processor = _frame(BOS, 1, EOS, 2)
    # The specials stay in the vocabulary but are no longer looked for in the text: a caption cannot forge an EOS.
    table = json.loads(encoder.to_str())
    table["added_tokens"] = []
    return Tokenizer(_bytes_of(table), TextSpec(context_length, vocab_size, pad_id=0, bos_id=1, eos_id=2, clean="none"))


@lru_cache(maxsize=1)
def _clip_json() -> bytes:
    letters, numbers, others = (_ignoring_case(kind) for kind in (r"\p{L}", r"\p{N}", r"^\s\p{L}\p{N}"))
    words = "|".join(
        [
            "<[sſ]tart_of_text>|<end_of_text>",  # `ſ` (long s) is an `s` to a pattern that ignores case
            "'[sſ]|'t|'re|'ve|'m|'ll|'d",
            f"[{letters}]+|[{numbers}]|[{others}]+",
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())  # printable bytes first: the order of the vocabulary file
    merges = _clip_merges()
    names = [*alphabet, *(letter + WORD_END for letter in alphabet), *(left + right for left, right in merges)]
    vocab = {name: index for index, name in enumerate(names)}
    _let_words_be_special(vocab, merges)
    encoder = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, end_of_word_suffix=WORD_END))
    encoder.normalizer = normalizers.Sequence(  # for other readers: `clean_clip` does this and more
        [normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Lowercase()]
    )
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(words), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    encoder.decoder = decoders.ByteLevel()
    bos, eos = "<start_of_text>" + WORD_END, "<end_of_text>" + WORD_END
    encoder.post_processor = _frame(bos, CLIP_BOS, eos, CLIP_EOS)
    return _bytes_of(json.loads(encoder.to_str()))


def _let_words_be_special(vocab: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Add the merges that join `<start_of_text>` and `<end_of_text>`, written out in a sentence, into BOS and EOS.

    open_clip reads them so, but only where its word pattern finds them; the added tokens of a tokenizers file
    would also be found behind punctuation. The steps in between get ids past the vocabulary: none of them is
    ever the end of a word, so none is ever given out.
    """
    encoder = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, end_of_word_suffix=WORD_END))
    spare = CLIP_VOCAB_SIZE
    for word, final_id in (("<start_of_text>", CLIP_BOS), ("<end_of_text>", CLIP_EOS)):
        joined, *pieces = encoder.encode(word).tokens
        for piece in pieces:
            merges.append((joined, piece))
            joined += piece
            if joined == word + WORD_END:
                vocab[joined] = final_id
            else:
                vocab[joined] = spare
                spare += 1


def _clip_merges() -> list[tuple[str, str]]:
    """The merges in open_clip's package, read without importing it (that would load torch)."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise UnavailableError(
            "CLIP's vocabulary is missing: the package open_clip_torch carries it",
            hint="pip install 'clip-edge[distill]'",
        )
    path = Path(package.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : CLIP_MERGES + 1]  # the first line is a title
    return [(left, right) for left, right in (line.split() for line in lines)]


def _ignoring_case(kind: str) -> str:
    """The characters of a class, as open_clip's pattern sees them, written out as ranges.

    The regex engine inside `tokenizers` knows an older Unicode: 17,000 letters fewer.
    """
    import regex  # type: ignore[import-untyped]  # a dependency of open_clip, and the engine whose Unicode tables count here

    everything = "".join(chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000)
    runs = (run.group() for run in regex.finditer(f"[{kind}]+", everything, regex.IGNORECASE))
    return "".join(rf"\x{{{ord(run[0]):x}}}-\x{{{ord(run[-1]):x}}}" for run in runs)


def _frame(bos: str, bos_id: int, eos: str, eos_id: int) -> processors.TemplateProcessing:
    """BOS and EOS around a sentence, for readers of the file other than ours."""
    return processors.TemplateProcessing(single=f"{bos} $A {eos}", special_tokens=[(bos, bos_id), (eos, eos_id)])


def _bytes_of(table: dict[str, Any]) -> bytes:
    return json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
