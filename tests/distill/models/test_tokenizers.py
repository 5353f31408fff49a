"""CLIP's tokenizer against open_clip on every kind of string, and tokenizers trained on captions."""

from __future__ import annotations

import random
import subprocess
import sys
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_edge.distill.models.tokenizers import clip_tokenizer, train_tokenizer
from clip_edge.errors import ConfigError
from clip_edge.tokenizer import Tokenizer

CAPTIONS = ["a photo of a red apple", "Two green pears on a blue table", "一个红苹果", "两只绿色的梨"] * 20


@lru_cache
def reference(context_length: int = 77):
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=context_length)


def assert_equal(texts: list[str], context_length: int = 77) -> None:
    ours, theirs = clip_tokenizer(context_length)(texts), reference(context_length)(texts).numpy()
    different = [text for text, a, b in zip(texts, ours, theirs, strict=True) if (a != b).any()]
    assert different == []


STRINGS = [
    "",
    " ",
    "a photo of a cat",
    "IT'S  they're we've I'm you'll he'd 'S 'ſ",
    "x" * 1_000,  # one word; open_clip's own time grows with the square of its length
    "hello wide world " * 600,  # 10,000 characters
    "!" * 300,
    "salt &amp;amp; pepper &lt;b&gt; &#128512; &nosuch;",
    "\x00\x01\x1b\x7f\x85\u200b\ufeff",
    "line\nbreak\ttab\rreturn\u2028separator",
    "\ud800 alone \udfff",
    "schÃ¶n mojibake â€œquotesâ€\u009d",
    "一张红苹果的照片，两只猫。",
    "りんごの写真 사과 사진 صورة تفاحة фото яблока تصویر سیب elma fotoğrafı İstanbul ß ǅ",
    "हिन्दी ไทย ქართული አማርኛ עברית ελληνικά",
    "😀👨‍👩‍👧‍👦🇨🇳🏳️‍🌈👍🏽 1️⃣",
    "½ Ⅷ ٣ 𝟘 ① 1234567890",
    "<start_of_text>",
    "<end_of_text>",
    "<START_OF_TEXT> shouting",
    "a<end_of_text>b<start_of_text><end_of_text>",
    "!<start_of_text>!<end_of_text>",
    "<ſtart_of_text> <end_of_textt> <end_of_text",
    "a\u0345b \u0300\u0301 combining",
    "\U000e0041\U0010ffff\ufffe private",
    "\U00016eb0\U00011db0 letters newer than most tables",
]


@pytest.mark.parametrize("context_length", [77, 8, 3])
def test_clip_ids_equal_open_clip(context_length: int) -> None:
    assert_equal(STRINGS, context_length)


def test_clip_ids_equal_open_clip_on_random_mixtures() -> None:
    rng = random.Random(0)
    kinds = [range(32, 127), range(0x3000), range(0x4E00, 0x9FFF), range(0x1F300, 0x1FAFF), range(0xE000, 0x110000)]
    alphabet = [chr(point) for kind in kinds for point in rng.sample(kind, 90) if not 0xD800 <= point < 0xE000]
    pieces = [*alphabet, *alphabet, " ", " ", "'s", "<end_of_text>", "&amp;", "the ", "photo"]
    assert_equal(["".join(rng.choices(pieces, k=rng.randint(1, 30))) for _ in range(4_000)])


@given(st.text())
def test_clip_ids_equal_open_clip_on_any_string(text: str) -> None:
    assert_equal([text])


@pytest.mark.slow
def test_clip_ids_equal_open_clip_on_every_character() -> None:
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    everything = [f"a{chr(point)}1" for point in points if point < 0x3000 or point % 16 == 0]
    assert_equal(everything)


def test_steps_between_are_never_given_out() -> None:
    """Ids past CLIP's vocabulary exist in the file only so that BOS and EOS can be spelt."""
    rows = clip_tokenizer()([*STRINGS, "<start", "start_of_text>", "<end_of_", "_text>"])
    assert rows.max() < 49408


def test_clip_file_frames_sentences_for_other_readers() -> None:
    import tokenizers

    ids = tokenizers.Tokenizer.from_buffer(clip_tokenizer().json_bytes).encode("a cat").ids
    assert ids == [49406, *clip_tokenizer().encode("a cat"), 49407]


def test_clip_tokenizer_needs_no_torch() -> None:
    code = "import sys; from clip_edge.distill.models.tokenizers import clip_tokenizer; clip_tokenizer(77)(['a'])"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "False"


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(CAPTIONS, 400, 16)


def test_training_is_deterministic(trained: Tokenizer) -> None:
    code = "import sys; from clip_edge.distill.models.tokenizers import train_tokenizer as t"
    code += f"; sys.stdout.buffer.write(t({CAPTIONS!r}, 400, 16).json_bytes)"
    for parallel in ("true", "false"):
        done = subprocess.run(
            [sys.executable, "-X", "utf8", "-c", code],
            env={"TOKENIZERS_PARALLELISM": parallel},
            capture_output=True,
            check=True,
        )
        assert done.stdout == trained.json_bytes


def test_trained_tokenizer_learns_words(trained: Tokenizer) -> None:
    assert len(trained.encode("a photo of a red apple")) <= 8
    assert len(trained.encode("一个红苹果")) < len("一个红苹果".encode())
    assert trained.spec.vocab_size == 400


def test_trained_tokenizer_ignores_case_width_and_spacing(trained: Tokenizer) -> None:
    plain = trained.encode("two green pears")
    assert trained.encode("  TWO  Green\tpears ") == plain
    assert trained.encode("Ｔｗｏ ｇｒｅｅｎ ｐｅａｒｓ") == plain


@given(st.text())
def test_every_string_encodes(text: str) -> None:
    tokenizer = _trained_once()
    ids = tokenizer.encode(text)
    assert all(3 <= token < tokenizer.vocab_size for token in ids)
    row = tokenizer([text])[0]
    assert row[min(len(ids) + 1, 15)] == 2


@lru_cache
def _trained_once() -> Tokenizer:
    return train_tokenizer(CAPTIONS, 400, 16)


@pytest.mark.parametrize("text", ["<pad>", "<bos>", "<eos>", "a<eos>b", "<EOS>"])
def test_captions_cannot_forge_special_ids(trained: Tokenizer, text: str) -> None:
    assert min(trained.encode(text)) >= 3


def test_different_words_have_different_rows(trained: Tokenizer) -> None:
    rows = trained(["red apple", "green pear", "红苹果", "绿梨", "🍎", "🍐"])
    assert len(np.unique(rows, axis=0)) == 6


def test_nothing_to_learn_from() -> None:
    assert train_tokenizer([], 300, 8).encode("hello")


def test_vocabulary_too_small() -> None:
    with pytest.raises(ConfigError) as caught:
        train_tokenizer(CAPTIONS, 258, 16)
    assert caught.value.what == "a trained tokenizer needs at least 259 ids; found vocab_size = 258"
