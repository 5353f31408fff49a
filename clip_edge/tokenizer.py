"""Sentences to token ids: the `tokenizers` file of a student or bundle, with the few facts that it does not hold."""

from __future__ import annotations

import html
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tokenizers

from clip_edge.errors import ArtifactError, UsageError
from clip_edge.files import MAX_JSON_BYTES, read_bounded

Cleaning = Literal["clip", "canonicalize", "whitespace", "none"]
Ids = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass(frozen=True)
class TextSpec:
    """What stands around the `tokenizers` file; a deployment that loses any of it embeds other sentences.

    A row is `bos_id` (where there is one), at most so many ids that `eos_id` still fits, `eos_id`, then `pad_id` up to
    `context_length`. Every id lies below `vocab_size`. `clean` names what happens to the text before the file sees it
    (`CLEANERS`); `"none"` leaves everything to the normalizer inside the file.
    """

    context_length: int
    vocab_size: int
    pad_id: int
    bos_id: int | None
    eos_id: int
    clean: Cleaning

    def __post_init__(self) -> None:
        if not 3 <= self.context_length <= 4096:
            raise ValueError(f"`context_length` must lie in 3..4096; found {self.context_length}")
        if not 3 <= self.vocab_size <= 1 << 20:
            raise ValueError(f"`vocab_size` must lie in 3..{1 << 20}; found {self.vocab_size}")
        for name in ("pad_id", "bos_id", "eos_id"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < self.vocab_size:
                raise ValueError(f"`{name}` must lie in 0..{self.vocab_size - 1}; found {value}")

    @property
    def begin(self) -> list[int]:
        """What stands before the sentence."""
        return [] if self.bos_id is None else [self.bos_id]


class Tokenizer:
    """Turns sentences into rows of ids. Needs neither torch nor a network.

    Raises:
        ArtifactError: the file is no `tokenizers` file, or gives ids that the text tower has no row for.
    """

    def __init__(self, json_bytes: bytes, spec: TextSpec, *, where: Path | str = "tokenizer.json") -> None:
        self.json_bytes = json_bytes
        self.spec = spec
        self.where = str(where)
        self._encoder = parse_tokenizer(json_bytes, self.where)
        if spec.clean == "clip":  # `clean_clip` does it all; the file's own normalizer is there for other readers
            self._encoder.normalizer = None

    @classmethod
    def load(cls, tokenizer_json: Path | bytes, spec: TextSpec) -> Tokenizer:
        """A tokenizer from a tokenizer.json file or its bytes."""
        if isinstance(tokenizer_json, bytes):
            return cls(tokenizer_json, spec)
        return cls(read_bounded(tokenizer_json, MAX_JSON_BYTES), spec, where=tokenizer_json)

    @property
    def vocab_size(self) -> int:
        """Rows that the text tower's embedding table needs."""
        return self.spec.vocab_size

    def __call__(self, texts: Sequence[str]) -> Ids:
        """N sentences -> (N, context_length) int64: BOS ... EOS, then padding; a long sentence is cut before EOS."""
        if isinstance(texts, str):
            raise UsageError("the tokenizer takes a list of sentences; found one string", hint="write [text]")
        rows = np.full((len(texts), self.spec.context_length), self.spec.pad_id, dtype=np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [*self.spec.begin, *self.encode(text)][: self.spec.context_length - 1]
            row[: len(ids) + 1] = [*ids, self.spec.eos_id]
        if rows.size and rows.max() >= self.spec.vocab_size:
            raise ArtifactError(
                f"expected token ids below {self.spec.vocab_size}; found {rows.max()}",
                where=self.where,
                hint="tokenizer.json and the model beside it do not belong together",
            )
        return rows

    def encode(self, text: str) -> list[int]:
        """The ids of one sentence, without BOS and EOS, at full length."""
        text = CLEANERS[self.spec.clean](text)
        text = text.encode("utf-8", "replace").decode()  # lone surrogates are no text: they become `?`
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def __reduce__(self) -> tuple[object, ...]:  # travels to data loader workers
        return Tokenizer, (self.json_bytes, self.spec)


def clean_clip(text: str) -> str:
    """The cleaning that CLIP's vocabulary was made for: mended encoding, HTML entities, single spaces, lower case."""
    return clean_whitespace(text).lower()


def clean_whitespace(text: str) -> str:
    """Mended encoding, HTML entities, single spaces: what open_clip does before a Hugging Face tokenizer."""
    return " ".join(_mended(text).split())


def clean_canonicalize(text: str) -> str:
    """What SigLIP was trained on: the same in lower case, without punctuation (big_vision's `canonicalize_text`)."""
    text = _mended(text).replace("_", " ").translate(_NO_PUNCTUATION)
    return " ".join(text.lower().split())


def _mended(text: str) -> str:
    if text.isascii() and text.isprintable() and "&" not in text:
        return text  # nothing to mend, and to find that out takes ftfy longer than the tokenizer needs
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))  # twice: web captions hold `&amp;amp;`


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
CLEANERS: dict[Cleaning, Callable[[str], str]] = {
    "clip": clean_clip,
    "canonicalize": clean_canonicalize,
    "whitespace": clean_whitespace,
    "none": str,
}


def parse_tokenizer(json_bytes: bytes, where: str) -> tokenizers.Tokenizer:
    """A `tokenizers` file, at full length and without padding.

    Raises:
        ArtifactError: it is none.
    """
    try:
        encoder = tokenizers.Tokenizer.from_buffer(json_bytes)
    except Exception as problem:  # the parser raises bare Exception
        raise ArtifactError(
            f"not a tokenizers file: {problem}", where=where, hint="copy tokenizer.json again from where it was made"
        ) from problem
    encoder.no_truncation()
    encoder.no_padding()
    return encoder
