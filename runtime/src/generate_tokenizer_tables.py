"""Writes tokenizer_tables.inc: what the package `tokenizers` itself answers for every character of Unicode.

Its parts were built with different versions of Unicode, most of them older than Python's; asking it is the only source
that stays right. Run it again when that package changes: python -m clip_edge.runtime.src.generate_tokenizer_tables
"""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Callable, Iterable

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

from clip_edge.runtime.src.generate_tables import HERE, POINTS, ranges, strings

CHARS = [chr(point) for point in POINTS]
NORMAL_FORMS = (("NFD", normalizers.NFD()), ("NFKD", normalizers.NFKD()))
BERT_WORDS = pre_tokenizers.BertPreTokenizer()
ACUTE, BELOW, COMMA_RIGHT = "\u0301", "\u0316", "\u0315"  # combining classes 230, 220, 232


def main() -> None:
    """Write the file beside this one."""
    (HERE / "tokenizer_tables.inc").write_text(tables(), encoding="ascii")


def tables() -> str:
    """Every table, in the order in which unicode.cpp and its neighbours use them."""
    removed, marks = bert(clean_text=True), bert(strip_accents=True)
    chinese, accents = bert(handle_chinese_chars=True), normalizers.StripAccents()
    graphemes = grapheme_counter()
    lower = normalizers.Lowercase()
    parts = [
        f"// tokenizers {tokenizers.__version__}. Made by generate_tokenizer_tables.py: change that, not this.",
        members("kLetters", matched_by(r"\p{L}")),
        members("kNumbers", matched_by(r"\p{N}")),
        ranges("kUnknownToNormalizers", is_unknown),
        strings("NewLower", lambda char: changed(lower.normalize_str(char), char.lower())),
        ranges("kBertRemoved", lambda char: removed.normalize_str(char) == ""),
        ranges("kBertChinese", lambda char: chinese.normalize_str(char) != char),
        ranges("kBertAccents", lambda char: marks.normalize_str(char) == ""),
        ranges("kBertPunctuation", is_bert_punctuation),
        ranges("kMarks", lambda char: accents.normalize_str(char) == ""),
        ranges("kJoinsBefore", lambda char: char != "\0" and graphemes("a" + char) == 1),
        ranges("kJoinsAfter", lambda char: char != "\0" and graphemes(char + "a") == 1),
        ranges("kControls", lambda char: char == "\0" or (char < "\uffff" and graphemes(char + ACUTE) == 2)),
    ]
    return "\n".join(parts) + "\n"


def members(name: str, chars: Iterable[str]) -> str:
    """A table of ranges of the characters given."""
    found = set(chars)
    return ranges(name, found.__contains__)


def matched_by(expression: str) -> str:
    """The characters that a class of the package's regex engine matches."""
    others = normalizers.Replace(Regex(expression), "").normalize_str("".join(CHARS))
    return "".join(sorted(set(CHARS) - set(others)))


def bert(**options: bool) -> normalizers.BertNormalizer:
    """The normalizer with one of its steps only."""
    steps = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    return normalizers.BertNormalizer(**(steps | options))


def changed(found: str, known: str) -> str | None:
    """`found` where it is not what is known already."""
    return None if found == known else found


def is_unknown(char: str) -> bool:
    """A character that Python decomposes or sorts among marks, and the package's older normal forms do not."""
    for form, ours in NORMAL_FORMS:
        if ours.normalize_str(char) != unicodedata.normalize(form, char):  # type: ignore[arg-type]
            assert ours.normalize_str(char) == char, f"{char!a} decomposes in another way"
            return True
    if unicodedata.combining(char) == 0:
        return False
    pair = "a" + (char + BELOW if unicodedata.combining(char) > 220 else COMMA_RIGHT + char)
    return bool(NORMAL_FORMS[0][1].normalize_str(pair) != unicodedata.normalize("NFD", pair))


def is_bert_punctuation(char: str) -> bool:
    """BertPreTokenizer makes a word of each of two in a row."""
    return len(BERT_WORDS.pre_tokenize_str("a" + char + char)) == 3


def grapheme_counter() -> Callable[[str], int]:
    """A function that counts the grapheme clusters of a text of at most five bytes, as Precompiled cuts them.

    The character map of this normalizer turns whatever begins with a byte into one letter, and it is asked once for
    each cluster.
    """
    units = [0] * 1024  # a double array: the root's children lie at 256 ^ byte, their leaves at 512 ^ byte
    units[0] = 256 << 10
    for byte in range(1, 256):
        units[256 ^ byte] = 768 << 10 | 1 << 8 | byte
        units[512 ^ byte] = 1 << 31
    trie = struct.pack(f"<{len(units)}I", *units)
    clusters = normalizers.Precompiled(struct.pack("<I", len(trie)) + trie + b"X\0")
    return lambda text: len(clusters.normalize_str(text))


if __name__ == "__main__":
    main()
