"""Sentences to token ids: the `tokenizers` file of a student or bundle, with the few facts that it does not hold."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tokenizers

from clip_edge.errors import ArtifactError, UsageError
from clip_edge.files import MAX_JSON_BYTES, read_bounded

Ids = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass(frozen=True)
class TextSpec:
    """What stands around the `tokenizers` file; a deployment that loses any of it embeds other sentences.

    A row is `bos_id`, at most `context_length - 2` ids, `eos_id`, then `pad_id` up to `context_length`.
    Every id lies below `vocab_size`. `clean="clip"` mends and lower-cases the text before the file sees it
    (`clean_clip`); `"none"` leaves everything to the normalizer inside the file.
    """

    context_length: int
    vocab_size: int
    pad_id: int
    bos_id: int
    eos_id: int
    clean: Literal["clip", "none"]

    def __post_init__(self) -> None:
        if not 3 <= self.context_length <= 4096:
            raise ValueError(f"`context_length` must lie in 3..4096; found {self.context_length}")
        if not 3 <= self.vocab_size <= 1 << 20:
            raise ValueError(f"`vocab_size` must lie in 3..{1 << 20}; found {self.vocab_size}")
        for name in ("pad_id", "bos_id", "eos_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(f"`{name}` must lie in 0..{self.vocab_size - 1}; found {getattr(self, name)}")


class Tokenizer:
    """Turns sentences into rows of ids. Needs neither torch nor a network.

    Raises:
        ArtifactError: the file is no `tokenizers` file, or gives ids that the text tower has no row for.
    """

    def __init__(self, json_bytes: bytes, spec: TextSpec, *, where: Path | str = "tokenizer.json") -> None:
        self.json_bytes = json_bytes
        self.spec = spec
        self.where = str(where)
        self._encoder = _parse(json_bytes, self.where)

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
            ids = self.encode(text)[: self.spec.context_length - 2]
            row[: len(ids) + 2] = [self.spec.bos_id, *ids, self.spec.eos_id]
        if rows.size and rows.max() >= self.spec.vocab_size:
            raise ArtifactError(
                f"expected token ids below {self.spec.vocab_size}; found {rows.max()}",
                where=self.where,
                hint="tokenizer.json and the model beside it do not belong together",
            )
        return rows

    def encode(self, text: str) -> list[int]:
        """The ids of one sentence, without BOS and EOS, at full length."""
        if self.spec.clean == "clip":
            text = clean_clip(text)
        text = text.encode("utf-8", "replace").decode()  # lone surrogates are no text: they become `?`
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def __reduce__(self) -> tuple[object, ...]:  # travels to data loader workers
        return Tokenizer, (self.json_bytes, self.spec)


def clean_clip(text: str) -> str:
    """The cleaning that CLIP's vocabulary was made for: mended encoding, HTML entities, single spaces, lower case."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))  # twice: web captions hold `&amp;amp;`
    return " ".join(text.split()).lower()


def _parse(json_bytes: bytes, where: str) -> tokenizers.Tokenizer:
    try:
        encoder = tokenizers.Tokenizer.from_buffer(json_bytes)
    except Exception as problem:  # the parser raises bare Exception
        raise ArtifactError(
            f"not a tokenizers file: {problem}", where=where, hint="copy tokenizer.json again from where it was made"
        ) from problem
    encoder.no_truncation()
    encoder.no_padding()
    return encoder
