"""The native tokenizer against the reference: 20,000 strings, every row equal."""

from __future__ import annotations

import ctypes
import html.entities
import random
from collections.abc import Callable
from typing import Any

import emoji
import ftfy
import numpy as np
import pytest

from clip_edge.distill.models.tokenizers import clip_tokenizer, train_tokenizer
from clip_edge.tokenizer import Tokenizer

from .conftest import Library

LANGUAGES = ("ar", "de", "en", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh")


def names() -> list[str]:
    """Emoji names in fourteen languages, and the emoji themselves."""
    emoji.config.load_language()  # all of them, whatever other tests have loaded before
    found = []
    for character, entry in sorted(emoji.EMOJI_DATA.items()):
        found.append(character)
        found += [entry[lang].strip(":").replace("_", " ") for lang in LANGUAGES if lang in entry]
    return found


def caption(source: random.Random, words: list[str]) -> str:
    template = source.choice(
        ["a photo of {}", "{} & {}", "Two {}s, one {}!", "{}", "«{}» — {}", "it's {}'s {}\n", "{} {} {} 3.14"]
    )
    return template.format(*(source.choice(words) for _ in range(3)))


def web_text(source: random.Random, words: list[str]) -> str:
    pieces = [f"&{name}" for name in html.entities.html5] + [
        "&amp;amp;",
        "&#233;",
        "&#x1F600;",
        "&#0;",
        "&#129;",
        "&lt;b&gt;",
        "<b>",
    ]
    return " ".join(
        source.choice([source.choice(words), source.choice(pieces), "&" + source.choice(words)]) for _ in range(6)
    )


def odd_characters(source: random.Random, words: list[str]) -> str:
    odd = "\x00\x07\t\r\n\x0b\x1b[31m\x7f\ufeff\u200d\u2028\u3000\u00a0ﬁﬅĲＡｶﾞ"
    odd += "“”‘’ʼİΣςßǅ①½e\u0301\u0323각가\U0001f468\u200d\U0001f469"
    letters = [source.choice([source.choice(odd), source.choice(words)[:3], " "]) for _ in range(12)]
    return "".join(letters)


def any_characters(source: random.Random, words: list[str]) -> str:
    points = (
        source.randrange(0x100, 0x110000 if source.random() < 0.3 else 0x3000) for _ in range(source.randrange(1, 20))
    )
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def corpus(count: int) -> list[str]:
    source, words = random.Random(3), names()
    kinds: list[Callable[[random.Random, list[str]], str]] = [caption] * 6 + [web_text, odd_characters, any_characters]
    fixed = [
        "",
        " ",
        "a" * 10_000,
        "the quick brown fox " * 500,
        "<start_of_text>",
        "a <end_of_text>",
        "É" * 10_000,
        "漢" * 300,
    ]
    return fixed + words[: count // 2] + [source.choice(kinds)(source, words) for _ in range(count - count // 2)]


def differing(native: Callable[[bytes], np.ndarray], reference: Tokenizer, texts: list[str]) -> list[str]:
    expected = reference(texts)
    return [text for text, row in zip(texts, expected, strict=True) if not np.array_equal(native(text.encode()), row)]


ENCODINGS = ["latin-1", *(f"sloppy-windows-{number}" for number in (1250, 1251, 1252, 1253, 1254, 1257))]
ENCODINGS += ["iso-8859-2", "macroman", "cp437"]
SUSPICIOUS = "\u00c2\u00c3\u00e2\u20ac\u0153\u201d\u2122\u0152\u00b0\u00d7\u00d8\u00d9\u00e0\u221a\u2248\u201a"
SUSPICIOUS += "\u0432\u0402\u0393\u0412\u03b2\u0101\x80\x85\x9d\xa0\xa1 \t\n\ufffd\x1a?\xbd\xb2\xb3\u252c\u256c"


def wrongly_decoded(source: random.Random, texts: list[str]) -> str:
    """UTF-8 read in another encoding, once or twice; sometimes damaged, sometimes beside text that is right."""
    text = source.choice(texts)
    for _ in range(source.choice([1, 1, 1, 2])):
        data = text.encode()
        if source.random() < 0.2:
            data = data.replace(b"\xa0", b" ")
        if source.random() < 0.1:
            data = data.replace(b"\x9d", b"\x1a")
        text = data.decode(source.choice(ENCODINGS), "replace")
    if source.random() < 0.3:
        text = f"{source.choice(texts)} {text}"
    if source.random() < 0.3:
        letters = list(text)
        for _ in range(3):
            letters.insert(source.randrange(len(letters) + 1), source.choice(SUSPICIOUS))
        text = "".join(letters)
    return text


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return corpus(20_000)


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(names()[:8000], 2000, 32)


@pytest.mark.slow
def test_clip_rows(library: Any, texts: list[str]) -> None:
    reference = clip_tokenizer()
    assert differing(library.tokenizer(reference.json_bytes, reference.spec), reference, texts) == []


def test_trained_rows(library: Any, trained: Tokenizer, texts: list[str]) -> None:
    assert differing(library.tokenizer(trained.json_bytes, trained.spec), trained, texts) == []


def test_wrong_decoding_is_repaired_as_ftfy_repairs_it(library: Any, texts: list[str]) -> None:
    source, short = random.Random(5), [text for text in texts if 0 < len(text) < 120]
    strings = [wrongly_decoded(source, short) for _ in range(3000)]
    strings += [
        "".join(source.choice(SUSPICIOUS + "abc\u00e9 ") for _ in range(source.randrange(2, 14))) for _ in range(1000)
    ]
    assert sum(ftfy.fix_encoding(text) != text for text in strings) > 1500
    reference = clip_tokenizer(256)
    assert differing(library.tokenizer(reference.json_bytes, reference.spec), reference, strings) == []


def test_invalid_utf8_is_read_as_python_reads_it(library: Any, trained: Tokenizer) -> None:
    source = random.Random(5)
    native = library.tokenizer(trained.json_bytes, trained.spec)
    for _ in range(2000):
        text = bytes(
            source.choice([source.randrange(256), 0xE2, 0xF0, 0x9F, 0x41, 0xC3, 0xED, 0xA0]) for _ in range(12)
        )
        np.testing.assert_array_equal(native(text), trained([text.decode("utf-8", "replace")])[0])


def test_many_texts_in_one_call(library: Library, trained: Tokenizer, texts: list[str]) -> None:
    some = [text.encode() for text in [*texts[:40], "", "a\0b"]]
    native, handle = (
        library.tokenizer(trained.json_bytes, trained.spec),
        library.open_tokenizer(trained.json_bytes, trained.spec),
    )
    ids, size = np.empty((len(some), trained.spec.context_length), np.int32), ctypes.c_size_t
    rows = (ctypes.c_char_p * len(some))(*some), (size * len(some))(*map(len, some))
    call, to = library.c.clip_edge_tokenize_texts, ctypes.c_void_p(ids.ctypes.data)
    library.check(call(handle, *rows, size(len(some)), to, size(ids.size)))
    np.testing.assert_array_equal(ids, [native(text) for text in some])
    library.check(call(handle, rows[0], None, size(len(some)), to, size(ids.size)))
    np.testing.assert_array_equal(ids[-1], native(b"a"))  # without lengths, a text ends at its first zero byte
    library.check(call(handle, None, None, size(0), None, size(0)))
    with pytest.raises(AssertionError, match=f"`ids` needs room for 42 x 32, it has room for {ids.size - 1}"):
        library.check(call(handle, *rows, size(len(some)), to, size(ids.size - 1)))
    library.c.clip_edge_tokenizer_free(handle)
