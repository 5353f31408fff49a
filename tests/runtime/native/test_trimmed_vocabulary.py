"""Trimmed vocabularies of every family: the corpus is cut as before, and C agrees on everything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_edge.distill.models.tokenizers import clip_tokenizer, train_tokenizer
from clip_edge.distill.vocabulary.trim import trim_tokenizer
from clip_edge.tokenizer import Tokenizer

from .test_tokenizer_families import FAMILIES, SPEC
from .test_tokenizer_parity import corpus, differing, names

CORPUS = [*names()[:400], "a red apple on blue background", "两只猫", "ein Äpfel, zwei Äpfel!"]


def trained(folder: Path) -> Tokenizer:
    return train_tokenizer(names()[:8000], 2000, 32)


def clip(folder: Path) -> Tokenizer:
    return clip_tokenizer()


def of_family(family: Callable[[Path], str]) -> Callable[[Path], Tokenizer]:
    return lambda folder: Tokenizer(family(folder).encode(), SPEC)


ALL = {"clip": clip, "trained": trained} | {family.__name__: of_family(family) for family in FAMILIES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers warns of every slow tokenizer
@pytest.mark.parametrize("family", ALL)
def test_the_corpus_is_cut_as_before_and_c_agrees_on_everything(library: Any, folder: Path, family: str) -> None:
    whole = ALL[family](folder)
    small = trim_tokenizer(whole, CORPUS)
    assert np.array_equal(np.array(small.kept)[small.tokenizer(CORPUS)], whole(CORPUS))
    texts = corpus(2000)
    assert len(small.kept) == small.tokenizer.vocab_size <= whole(texts).max()
    rows = small.tokenizer(texts)
    assert rows.max() < small.tokenizer.vocab_size
    assert differing(library.tokenizer(small.tokenizer.json_bytes, small.tokenizer.spec), small.tokenizer, texts) == []
