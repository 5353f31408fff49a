"""Hugging Face tokenizers as ours: one `tokenizers` file, and the facts that stand around it."""

from __future__ import annotations

import importlib
import json
from typing import Any

import tokenizers
from tokenizers import normalizers, processors

from clip_edge.distill.models.tokenizers import MIN_TRAINED_VOCAB, train_tokenizer
from clip_edge.errors import CheckpointError
from clip_edge.tokenizer import Cleaning, TextSpec, Tokenizer

PUNCTUATION = r"[!-/:-@\[-`{-~]"  # the 32 characters of Python's string.punctuation


def from_transformers(
    theirs: Any, *, context_length: int, vocab_size: int, clean: Cleaning = "none", eos_is_pad: bool = False
) -> Tokenizer:
    """A transformers tokenizer as `tokenizers` file with the same ids for every row of `context_length`.

    `vocab_size` is the number of rows of the tower's embedding table. `eos_is_pad` writes padding where the
    tokenizer would write its end (CLIPA was trained so).

    Raises:
        CheckpointError: ids beyond the table, a frame other than [BOS] … EOS, padding on the left, or a tokenizer
            that exists as Python code only.
    """
    where = str(theirs.name_or_path) or type(theirs).__name__
    if len(theirs) > vocab_size:
        raise CheckpointError(
            f"the tokenizer has {len(theirs)} ids and the text tower has rows for {vocab_size}",
            where=where,
            hint="tokenizer and weights do not belong together",
        )
    if theirs.padding_side != "right":
        raise CheckpointError("the tokenizer pads on the left; text towers are trained with padding on the right")
    begin, eos_id = _frame(theirs, where)
    pad_id = theirs.pad_token_id
    if pad_id is None:
        raise CheckpointError("the tokenizer has no padding token", where=where)
    encoder = _file(theirs, where)
    if clean == "canonicalize":
        _canonicalize(encoder)
    eos_id = pad_id if eos_is_pad else eos_id
    encoder.post_processor = _template(encoder, begin, eos_id)
    encoder.no_truncation()
    encoder.no_padding()
    data = json.dumps(json.loads(encoder.to_str()), ensure_ascii=False, separators=(",", ":")).encode()
    spec = TextSpec(context_length, vocab_size, pad_id, begin[0] if begin else None, eos_id, clean)
    return Tokenizer(data, spec, where=where)


def _frame(theirs: Any, where: str) -> tuple[list[int], int]:
    """What the tokenizer puts before and behind a sentence, read off three sentences."""
    empty: list[int] = theirs("")["input_ids"]
    for text in ("a", "two cats"):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        if not 1 <= len(empty) <= 2 or theirs(text)["input_ids"] != [*empty[:-1], *ids, empty[-1]]:
            raise CheckpointError(
                "expected one token at most before a sentence and one behind it; the tokenizer frames it otherwise",
                where=where,
            )
    return empty[:-1], empty[-1]


def _file(theirs: Any, where: str) -> tokenizers.Tokenizer:
    if theirs.is_fast:
        return tokenizers.Tokenizer.from_str(theirs.backend_tokenizer.to_str())
    if type(theirs).__name__ == "SiglipTokenizer":  # T5's pieces behind its own cleaning
        transformers: Any = importlib.import_module("transformers")
        fast = transformers.T5TokenizerFast(theirs.vocab_file, extra_ids=0)
        encoder = tokenizers.Tokenizer.from_str(fast.backend_tokenizer.to_str())
        _canonicalize(encoder)
        return encoder
    raise CheckpointError(
        f"{type(theirs).__name__} is Python code and has no file that other runtimes could read",
        where=where,
        hint="save the fast form of the tokenizer (tokenizer.json) beside the model",
    )


def _canonicalize(encoder: tokenizers.Tokenizer) -> None:
    """Put SigLIP's cleaning (lower case, no punctuation, single spaces) before the file's own normalizer."""
    steps = [
        normalizers.Replace(tokenizers.Regex(PUNCTUATION), ""),
        normalizers.Lowercase(),
        normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    encoder.normalizer = normalizers.Sequence([*steps, *([encoder.normalizer] if encoder.normalizer else [])])


def _template(encoder: tokenizers.Tokenizer, begin: list[int], eos_id: int) -> processors.TemplateProcessing:
    """The frame, for readers of the file other than ours."""
    special = [(encoder.id_to_token(index), index) for index in dict.fromkeys([*begin, eos_id])]
    words = {index: word for word, index in special}
    return processors.TemplateProcessing(
        single=" ".join([*(words[index] for index in begin), "$A", words[eos_id]]), special_tokens=special
    )


def stand_in(context_length: int, vocab_size: int, pad_id: int) -> Tokenizer:
    """A tokenizer of single bytes for a tower with random weights whose own tokenizer cannot be had.

    Raises:
        CheckpointError: no room for 256 bytes and three special ids.
    """
    if vocab_size < MIN_TRAINED_VOCAB or pad_id not in (0, 1):
        raise CheckpointError(f"no stand-in for a tokenizer of {vocab_size} ids that pads with {pad_id}")
    letters = train_tokenizer(["a photo of a cat"], MIN_TRAINED_VOCAB, context_length)
    encoder = tokenizers.Tokenizer.from_buffer(letters.json_bytes)
    encoder.post_processor = _template(encoder, [1 - pad_id], 2)
    spec = TextSpec(context_length, vocab_size, pad_id, 1 - pad_id, 2, "none")
    return Tokenizer(encoder.to_str().encode(), spec, where="stand-in")
