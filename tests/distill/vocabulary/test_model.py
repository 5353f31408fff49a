"""A trimmed student: the same embeddings to the bit, in the folder, in a bundle, and refused when it is not so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_edge.distill.models.checkpoint import LoadedStudent, load_student, save_student
from clip_edge.distill.models.spec import TokenizerSpec, load_spec
from clip_edge.distill.models.student import build_student
from clip_edge.distill.models.tokenizers import clip_tokenizer
from clip_edge.distill.vocabulary.model import prove, trim_student
from clip_edge.distill.vocabulary.trim import trim_tokenizer
from clip_edge.errors import UsageError, VerificationError

CORPUS = {"en": ["a red apple", "two cats on a mat"], "zh": ["红苹果", "两只猫"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> LoadedStudent:
    """A small student with CLIP's vocabulary and random weights."""
    spec = load_spec("nano-s")
    spec = dataclasses.replace(spec, tokenizer=TokenizerSpec("clip", 49408))
    tokenizer = clip_tokenizer(spec.text.context_length)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("whole")
    save_student(folder, build_student(spec, tokenizer), tokenizer, recipe_toml="", metrics=None, provenance={})
    return load_student(folder)


def test_nothing_changed_but_the_size(whole: LoadedStudent, tmp_path: Path) -> None:
    report = trim_student(whole, CORPUS, tmp_path / "small")
    small = load_student(tmp_path / "small")
    texts = [text for part in CORPUS.values() for text in part]
    with torch.inference_mode():
        before, after = (
            model.student.encode_text(torch.from_numpy(model.tokenizer(texts))) for model in (whole, small)
        )
    assert torch.equal(before, after)
    assert report.table_bytes_after == small.student.text.token_embedding.weight.nbytes < report.table_bytes_before / 70
    assert (report.sentences, report.different_rows) == (4, 4)
    assert report.tokens_used["zh"] > 0
    assert small.info["provenance"]["vocabulary"]["tokens_after"] == report.tokens_after
    assert small.spec.tokenizer == TokenizerSpec("trimmed", report.tokens_after)


def test_a_folder_that_exists(whole: LoadedStudent, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(UsageError, match="exists"):
        trim_student(whole, CORPUS, tmp_path)


def test_a_changed_row_is_noticed(whole: LoadedStudent) -> None:
    texts = CORPUS["en"]
    trimmed = trim_tokenizer(whole.tokenizer, texts)
    spec = dataclasses.replace(whole.spec, tokenizer=TokenizerSpec("trimmed", trimmed.tokenizer.vocab_size))
    other = build_student(spec, trimmed.tokenizer).eval()  # other random weights
    with pytest.raises(VerificationError, match="embeddings changed by up to "):
        prove(whole, other, trimmed, texts)


def test_another_cut_is_noticed(whole: LoadedStudent) -> None:
    trimmed = trim_tokenizer(whole.tokenizer, CORPUS["en"])
    with pytest.raises(VerificationError, match="a sentence would be cut otherwise: `an unheard of umbrella`"):
        prove(whole, whole.student, trimmed, ["an unheard of umbrella"])
    assert np.array_equal(sorted(trimmed.kept), trimmed.kept)
