"""Sentences from files, from data sets, and from the built-in names."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_edge.distill.vocabulary.corpus import Corpus, builtin_sentences, read_corpus
from clip_edge.errors import DataError, UsageError


def test_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("a cat\n\n  a dog \r\na cat\n")
    assert read_corpus([path], []) == Corpus({path.name: ["a cat", "a dog"]}, {})


def test_captions_of_a_data_set(tiny_emoji: Path) -> None:
    (texts,) = read_corpus([tiny_emoji], []).sentences.values()
    assert len(texts) > 50
    assert any("\u4e00" <= char <= "\u9fff" for text in texts for char in text)


def test_built_in_sentences_are_always_the_same() -> None:
    assert builtin_sentences("en") == builtin_sentences("en")
    assert {"red apple", "cat"} <= set(read_corpus([], ["en"]).sentences["en"])


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Äpfel".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_corpus([tmp_path / "latin.txt"], [])
    with pytest.raises(UsageError, match="no sentence to go by"):
        read_corpus([], [])
    with pytest.raises(UsageError, match="unknown language: `eng`"):
        read_corpus([], ["eng"])


def test_samples_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    (tmp_path / "data.csv").write_text("filepath,title\na.png,a cat\nb.png,a dog\nc.png,a bird\n")
    found = read_corpus([tmp_path / "data.csv"], ["en"])
    assert found.sentences["data.csv"] == ["a cat"]
    assert found.left_out == {"data.csv": 2}
