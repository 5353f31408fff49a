"""Hugging Face tokenizers as ours: one `tokenizers` file, and the facts that stand around it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tokenizers
from tokenizers import normalizers, processors

from clip_edge.distill.models.spec import TokenizerSpec
from clip_edge.distill.models.tokenizers import MIN_TRAINED_VOCAB, train_tokenizer
from clip_edge.errors import ArtifactError, CheckpointError, ConfigError
from clip_edge.files import MAX_JSON_BYTES, read_bounded
from clip_edge.tokenizer import CLEANERS, Cleaning, TextSpec, Tokenizer, parse_tokenizer

FAMILIES = ("BPE", "WordPiece", "Unigram")
PADDING = ("<pad>", "[PAD]")  # what padding is called where neither file nor specification names it
T = TypeVar("T")
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
    frame = _frame(lambda text, special: theirs(text, add_special_tokens=special)["input_ids"])
    if not frame:
        raise CheckpointError(FRAMED_OTHERWISE, where=where)
    begin, eos_id = frame[:-1], frame[-1]
    pad_id = theirs.pad_token_id
    if pad_id is None:
        raise CheckpointError("the tokenizer has no padding token", where=where)
    encoder = _file(theirs, where)
    if clean == "canonicalize":
        _canonicalize(encoder)
    eos_id = pad_id if eos_is_pad else eos_id
    spec = TextSpec(context_length, vocab_size, pad_id, begin[0] if begin else None, eos_id, clean)
    return _ours(encoder, spec, where)


def read_tokenizer(wanted: TokenizerSpec, context_length: int) -> Tokenizer:
    """The file that a student's specification names: of `clip-edge vocab train`, or tokenizer.json of another model.

    Raises:
        ArtifactError: no such file, another kind of tokenizer, or more tokens than `wanted.vocab_size`.
        ConfigError: the file contradicts the specification, or neither says which token ends or pads a sentence.
    """
    path = Path(wanted.file or "")
    data = read_bounded(path, MAX_JSON_BYTES)
    encoder = parse_tokenizer(data, str(path))
    kind = json.loads(encoder.to_str())["model"].get("type")
    if kind not in FAMILIES:
        raise ArtifactError(f"expected a tokenizer of kind {', '.join(FAMILIES)}; found {kind}", where=path)
    count = 1 + max(encoder.get_vocab(with_added_tokens=True).values(), default=-1)
    if count > wanted.vocab_size:
        raise ArtifactError(
            f"expected at most {wanted.vocab_size} tokens; the file has {count}",
            where=path,
            hint="give the size of the file as `tokenizer.vocab_size`",
        )
    begin, eos_id = _ends(wanted, encoder, path)
    clean: Cleaning = wanted.clean or "none"
    if clean == "canonicalize":
        _canonicalize(encoder)
    pad_id = _padding(wanted, encoder, json.loads(data), path)
    spec = TextSpec(context_length, wanted.vocab_size, pad_id, begin[0] if begin else None, eos_id, clean)
    _check_case(wanted, encoder, clean, path)
    return _ours(encoder, spec, str(path))


def _ours(encoder: tokenizers.Tokenizer, spec: TextSpec, where: str) -> Tokenizer:
    """The file with the frame in its plainest form, and without lengths: those are the student's."""
    encoder.post_processor = _template(encoder, spec.begin, spec.eos_id)
    encoder.no_truncation()
    encoder.no_padding()
    data = json.dumps(json.loads(encoder.to_str()), ensure_ascii=False, separators=(",", ":")).encode()
    return Tokenizer(data, spec, where=where)


FRAMED_OTHERWISE = "expected one token at most before a sentence and one behind it; the tokenizer frames it otherwise"


def _frame(encode: Callable[[str, bool], list[int]]) -> list[int] | None:
    """What stands around every sentence, read off three of them: [BOS, EOS], [EOS] or []; None for anything else.

    `encode` gives the ids of a text, with its frame or without.
    """
    frame = encode("", True)
    for text in ("a", "two cats"):
        if len(frame) > 2 or encode(text, True) != [*frame[:-1], *encode(text, False), *frame[-1:]]:
            return None
    return frame


def _ends(wanted: TokenizerSpec, encoder: tokenizers.Tokenizer, path: Path) -> tuple[list[int], int]:
    """Ids before and behind a sentence: the file's, which the specification may repeat but not contradict."""
    try:
        frame = _frame(lambda text, special: list(encoder.encode(text, add_special_tokens=special).ids))
    except Exception as problem:  # `tokenizers` raises bare Exception where an unknown character has no token
        raise ArtifactError(f"the tokenizer cannot read every sentence: {problem}", where=path) from problem
    if frame is None:
        raise ArtifactError(FRAMED_OTHERWISE, where=path)
    words = [encoder.id_to_token(index) for index in frame]
    start = _agreed("start", wanted.start, "".join(words[:-1]) if words else None, path) or ""
    end = _agreed("end", wanted.end, words[-1] if words else None, path)
    if end is None:
        raise ConfigError(
            "neither the file nor the specification says which token ends a sentence",
            where=path,
            hint='name it: "tokenizer": {..., "end": "</s>"}',
        )
    if start == end:
        raise ConfigError(f"`{end}` both begins and ends a sentence, so the end could not be found", where=path)
    return [_id(encoder, start, path)] if start else [], _id(encoder, end, path)


def _padding(wanted: TokenizerSpec, encoder: tokenizers.Tokenizer, table: dict[str, Any], path: Path) -> int:
    """The id of padding: what the file says, or the specification, or the token that is always called so."""
    said = table.get("padding") or {}
    for part in ("padding", "truncation"):
        if (table.get(part) or {}).get("direction", "Right") != "Right":
            raise ConfigError(
                f"the file has {part} on the left; text towers are trained with it on the right", where=path
            )
    pad = _agreed("pad", wanted.pad, said.get("pad_token"), path)
    pad = pad or next((word for word in PADDING if encoder.token_to_id(word) is not None), None)
    if pad is None:
        raise ConfigError(
            "neither the file nor the specification says which token pads a sentence",
            where=path,
            hint='name it: "tokenizer": {..., "pad": "<|endoftext|>"}; tokenizer_config.json of the model has it',
        )
    return _id(encoder, pad, path)


def _check_case(wanted: TokenizerSpec, encoder: tokenizers.Tokenizer, clean: Cleaning, path: Path) -> None:
    text = CLEANERS[clean]("ABC")
    if encoder.normalizer is not None and clean != "clip":  # as `Tokenizer` reads it
        text = encoder.normalizer.normalize_str(text)
    _agreed("lowercase", wanted.lowercase, "abc" in text, path)


def _agreed(name: str, wanted: T | None, found: T | None, path: Path) -> T | None:
    """What both say, or the one that says anything."""
    if wanted is not None and found is not None and wanted != found:
        raise ConfigError(f"the specification has `tokenizer.{name}` = {wanted!r}; the file has {found!r}", where=path)
    return found if wanted is None else wanted


def _id(encoder: tokenizers.Tokenizer, word: str, path: Path) -> int:
    index: int | None = encoder.token_to_id(word)
    if index is None:
        raise ConfigError(f"the file has no token `{word}`", where=path)
    return index


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
