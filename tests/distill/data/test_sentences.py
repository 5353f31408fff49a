"""Files of sentences: what is read, and what is wrong with a file, with the line."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_edge.distill.data.sentences import MAX_CHARACTERS, read_sentences
from clip_edge.errors import DataError


def test_one_on_each_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffa cat\r\n\n  红苹果 \n\t\nÄpfel\u2028und Birnen".encode())
    found = read_sentences(path)
    assert list(found) == ["a cat", "红苹果", "Äpfel\u2028und Birnen"]
    assert (len(found), found[-1], found[1:]) == (3, "Äpfel\u2028und Birnen", ["红苹果", "Äpfel\u2028und Birnen"])
    assert (found.name, found.sha256) == ("lines.txt", hashlib.sha256(path.read_bytes()).hexdigest())
    assert list(pickle.loads(pickle.dumps(found))) == list(found)
    with pytest.raises(IndexError):
        found[3]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1)).filter("".join))
def test_any_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    wanted = [line.strip() for line in lines if line.strip()]
    path = tmp_path_factory.mktemp("lines") / "any.txt"
    path.write_bytes(b"\n" + "\n".join(lines).encode())
    if wanted:
        assert list(read_sentences(path)) == wanted
    else:
        with pytest.raises(DataError, match="no sentence"):
            read_sentences(path)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the file holds no sentence"),
        (b"\n  \n\t\r\n", "the file holds no sentence"),
        ("a cat\n\nÄpfel".encode("latin-1"), "line 3 is not UTF-8"),
        (b"a\n" + b"x" * (MAX_CHARACTERS + 1), "line 2 has 10,001 characters; a sentence may have 10,000"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "lines.txt").write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_sentences(tmp_path / "lines.txt")
    assert (caught.value.what, caught.value.where) == (what, str(tmp_path / "lines.txt"))
    assert caught.value.hint
    assert "one sentence on each line" in caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing file: lines\.txt"):
        read_sentences(tmp_path / "lines.txt")


def test_the_longest_sentence(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text(" " + "é" * MAX_CHARACTERS + " \n")
    assert len(read_sentences(tmp_path / "lines.txt")[0]) == MAX_CHARACTERS
