"""Sentences that Unicode can write in several ways: Python and C read them as `transformers` does with their file."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_edge.distill.models.tokenizers import clip_tokenizer, train_tokenizer
from clip_edge.distill.vocabulary.trim import trim_tokenizer
from clip_edge.tokenizer import TextSpec, Tokenizer

from .test_tokenizer_families import bert, bert_cased, gemma, t5, unigram_with_bytes, xlm_roberta
from .test_tokenizer_parity import names

SPEC = TextSpec(256, 1 << 20, pad_id=0, bos_id=1, eos_id=2, clean="none")
ACCENTS = [
    "Ein Äpfel, zwei Ärger",
    "café à la crème",
    "Việt Nam đẹp lắm",
    "Ångström ﬁn",
    "각하 한국어 사과",
    "がぎぐ パピプ",
    "ёлка й",
]
ACCENTS += ["صُورَة", "हिन्दी क़लम", "İstanbul ısı", "ΐ ΰ ἄλφα", "שָׁלוֹם"]
TABLE = {
    "full-width letters": ["Ｔｗｏ ｃａｔｓ！", "１２３ＡＢＣ", "ｶﾞｷﾞ ﾊﾟﾝ", "￦１００ ￥", "（红苹果）：两个。"],
    "mixed scripts": ["a红apple苹果с яблокомと林檎", "iPhone用ケース", "BTS 방탄소년단 2024年", "x²+y₂ ½ Ⅷ ①"],
    "emoji": [
        "a 👨\u200d👩\u200d👧\u200d👦 family",
        "🇨🇳🇩🇪 flags 🇺",
        "👍🏽 ok👌🏿",
        "🏳\ufe0f\u200d🌈🏴\U000e0067\U000e007f",
    ],
    "flags": ["🏳\ufe0f\u200d🌈🏴\U000e0067\U000e0062\U000e007f", "🇨🇳", "🇨🇳🇩🇪🇺🇸", "a🇨b"],
    "emoji alone": ["1\ufe0f\u20e3#\ufe0f\u20e3", "❤\ufe0f ❤ ❤\ufe0e", "😀\u200d", "\u200d😀a\ufe0f"],
    "right to left": ["صورة تفاحة حمراء", "تمام!abc שלום 123", "\u202bتفاح\u202c red", "\u200fא\u200e a", "لا ﻻ ﷺ"],
    "joiners": ["سیب\u200cها می\u200cخواهم", "क\u094d\u200dष", "க்\u200cஷ"],
    "combining marks": ["a\u0301\u0323b", "\u0301a", "e\u0301\u0302\u0303", "n\u0303o\u0308", "Z\u0351\u036b\u0343"],
    "jamo": ["\u1100\u1161\u11a8", "가\u11a8", "\u1100"],
    "spaces": ["a\u00a0b\u2003c\u3000d", "a\u200bb\u2060c", "  a  ", "\ufeffa", "a\u0085b\u2028c", "a\tb\nc\r\nd"],
}


def hugging_face_clip(folder: Path) -> str:
    """CLIP's vocabulary in the file that Hugging Face makes of it, without the mending of open_clip."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import CLIPConverter

    model = json.loads(clip_tokenizer().json_bytes)["model"]
    vocab = {word: index for word, index in model["vocab"].items() if index < 49406}
    vocab |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]][:48894]
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return str(
        CLIPConverter(CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))).converted().to_str()
    )


def trained(folder: Path) -> str:
    """Our own."""
    return train_tokenizer(names()[:8000], 2000, 32).json_bytes.decode()


FAMILIES = [hugging_face_clip, trained, t5, xlm_roberta, unigram_with_bytes, gemma, bert, bert_cased]


class Three:
    """One file, read by `transformers`, by our Python and by our C."""

    def __init__(self, file: str, library: Any) -> None:
        import transformers

        self.ours = Tokenizer(file.encode(), SPEC)
        self.native = library.tokenizer(self.ours.json_bytes, SPEC)
        self.theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer.from_str(file))

    def ids(self, text: str) -> list[int]:
        """Without frame; once all three agree."""
        expected: list[int] = self.theirs(text, add_special_tokens=False)["input_ids"]
        assert self.ours.encode(text) == expected, ascii(text)
        row = [1, *expected][:255]
        np.testing.assert_array_equal(self.native(text.encode()), [*row, 2, *[0] * (255 - len(row))], ascii(text))
        return expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def read(library: Any, folder: Path) -> Callable[[Callable[[Path], str]], Three]:
    return lru_cache(lambda family: Three(family(folder), library))


@pytest.mark.filterwarnings("ignore")  # transformers warns of every slow tokenizer
@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_writing(read: Any, family: Callable[[Path], str]) -> None:
    three = read(family)
    for text in [*ACCENTS, *(text for texts in TABLE.values() for text in texts)]:
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            three.ids(unicodedata.normalize(form, text))
        three.ids(text)
        three.ids(f"a photo of {text}, {text.upper()}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_composed_and_decomposed_forms(read: Any, family: Callable[[Path], str]) -> None:
    """Both are read as the reference reads them: alike where the file normalises, and not where it does not."""
    three = read(family)
    composed, decomposed = ([unicodedata.normalize(form, text) for text in ACCENTS] for form in ("NFC", "NFD"))
    alike = [three.ids(one) == three.ids(other) for one, other in zip(composed, decomposed, strict=True)]
    if family in (hugging_face_clip, trained):
        assert all(alike)
    if family is gemma:
        assert not any(alike[:3])
    if family is bert_cased:
        assert not all(alike)


letters = st.one_of(
    st.characters(codec="utf-8"),
    st.characters(min_codepoint=0x300, max_codepoint=0x36F),
    st.sampled_from("aàÀāｅＥéßſﬁıİ각가\u1100\u1161ガｶﾞ한红苹يلاשׁक्षก็\u200c\u200d\u200e\u202b\ufe0f \u3000\u00a0"),
    st.sampled_from(["👨‍👩‍👧", "🇨🇳", "🇺", "👍🏽", "🏳️‍🌈", "e\u0301", "the", "</s>", "[SEP]", "##a", "\u2581"]),
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_any_mixture(read: Any, family: Callable[[Path], str]) -> None:
    three = read(family)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(letters, max_size=16).map("".join))
    def agree(text: str) -> None:
        for form in ("NFC", "NFD"):
            three.ids(unicodedata.normalize(form, text))
        three.ids(text)

    agree()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [hugging_face_clip, unigram_with_bytes, bert_cased])
def test_smaller_files_are_read_alike(read: Any, library: Any, family: Callable[[Path], str]) -> None:
    """Of sentences that the corpus has, in either form, nothing changes; of all others, all three still agree."""
    whole, corpus = read(family).ours, [unicodedata.normalize("NFD", text) for text in ACCENTS[:4]]
    small = trim_tokenizer(whole, corpus)
    three = Three(small.tokenizer.json_bytes.decode(), library)
    for text in [*ACCENTS, *(text for texts in TABLE.values() for text in texts)]:
        three.ids(text)
    for text in corpus:
        assert [small.kept[index] for index in three.ids(text)] == whole.encode(text)
