"""What foreign towers show of their inside is what their own libraries compute there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from clip_edge.distill.models.inside import image_inside, text_inside
from clip_edge.distill.models.pretrained import FirstOutput, load_pretrained

HUGGING_FACE = ("clip", "siglip", "chinese_clip", "altclip")
OPEN_CLIP = ("mobileclip", "quickgelu", "siglip", "xlmr", "mt5")
KINDS = [f"hf:{name}" for name in HUGGING_FACE] + [f"open_clip:{name}" for name in OPEN_CLIP]
TEXTS = ["a photo of a cat", "一只红色的猫", ""]


@pytest.mark.parametrize("kind", KINDS)
def test_the_embedding_beside_it_is_the_same(kind: str, foreign_model: Callable[[str], Path]) -> None:
    loaded = load_pretrained(f"{kind.partition(':')[0]}:{foreign_model(kind)}")
    pixels, tokens = torch.randn(2, 3, 32, 32), torch.from_numpy(loaded.tokenizer(TEXTS))
    see, read = image_inside(loaded.image), text_inside(loaded.text)
    assert see is not None
    assert read is not None
    with torch.no_grad():
        (image, level), (text, words) = see(pixels), read(tokens)
        torch.testing.assert_close(image, loaded.image(pixels), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(text, loaded.text(tokens))
    assert level.ndim == 4
    assert level.shape[0] == 2
    assert level.shape[2] == level.shape[3] > 0
    assert words.shape[:2] == tokens.shape


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_maps_are_the_patches_of_transformers(name: str, foreign_model: Callable[[str], Path]) -> None:
    folder = foreign_model(f"hf:{name}")
    theirs: Any = transformers.AutoModel.from_pretrained(folder).eval()
    see = image_inside(load_pretrained(f"hf:{folder}").image)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        hidden = theirs.vision_model(pixel_values=pixels).last_hidden_state  # (2, 1 + 16 or 16, 32)
        assert see is not None
        level = see(pixels)[1]
    assert level.shape == (2, 32, 4, 4)
    torch.testing.assert_close(level[:, :, 0, 0], hidden[:, -16])
    torch.testing.assert_close(level[:, :, 0, 3], hidden[:, -13])
    torch.testing.assert_close(level[:, :, 3, 3], hidden[:, -1])


@pytest.mark.parametrize("kind", ["hf:chinese_clip", "hf:altclip", "open_clip:xlmr"])
def test_words_are_the_hidden_states_of_transformers(kind: str, foreign_model: Callable[[str], Path]) -> None:
    family, _, name = kind.partition(":")
    loaded = load_pretrained(f"{family}:{foreign_model(kind)}")
    whole: Any = loaded.whole
    theirs = {"chinese_clip": lambda: whole.text_model, "altclip": lambda: whole.text_model.roberta}
    encoder = theirs.get(name, lambda: whole.text.transformer)()
    tokens = torch.from_numpy(loaded.tokenizer(TEXTS))
    is_token = tokens != loaded.tokenizer.spec.pad_id
    read = text_inside(loaded.text)
    with torch.no_grad():
        hidden = encoder(input_ids=tokens, attention_mask=is_token.long()).last_hidden_state
        assert read is not None
        words = read(tokens)[1]
    torch.testing.assert_close(words[is_token], hidden[is_token], atol=1e-5, rtol=1e-4)


def test_what_shows_nothing_is_told_apart() -> None:
    assert image_inside(FirstOutput(torch.nn.Identity())) is None
    assert text_inside(FirstOutput(torch.nn.Identity())) is None
