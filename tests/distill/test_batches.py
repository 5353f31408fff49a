"""Padding is cut where nobody can see it, and problems are named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clip_edge.console import Console
from clip_edge.distill import batches
from clip_edge.distill.data.loader import Batch
from clip_edge.distill.data.samples import Problem
from clip_edge.distill.models.spec import ImageSpec, StudentSpec, TextTowerSpec, TokenizerSpec
from clip_edge.distill.models.student import Student, build_student
from clip_edge.distill.models.tokenizers import train_tokenizer

TEXT = TextTowerSpec(depth=2, width=32, heads=2, context_length=24, causal=False, pad_mask=True)
EOS = 2
TOKENS = torch.tensor([[1, 9, 9, 2, 0, 0, 0, 0], [1, 9, 9, 9, 9, 2, 0, 0]])
CAPTIONS = ["a cat", "a dog on a mat", "two cats", "one red apple left of a very old house", "x", ""] * 2


def student(text: TextTowerSpec) -> Student:
    image = ImageSpec(
        "timm:vit_tiny_patch16_224", 32, {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    )
    spec = StudentSpec("tiny", 16, image, text, TokenizerSpec("trained", 300))
    torch.manual_seed(0)
    return build_student(spec, train_tokenizer(CAPTIONS, 300, text.context_length)).eval()


def test_columns_behind_the_longest_sentence_go() -> None:
    assert batches.without_padding(TOKENS, TEXT, EOS).tolist() == TOKENS[:, :6].tolist()


def test_several_captions_per_picture_are_cut_at_the_longest_of_all() -> None:
    assert batches.without_padding(TOKENS.view(1, 2, 8), TEXT, EOS).tolist() == [TOKENS[:, :6].tolist()]


@pytest.mark.parametrize("text", [replace(TEXT, pad_mask=False), replace(TEXT, mixer_kernel=3)])
def test_towers_that_see_padding_keep_it(text: TextTowerSpec) -> None:
    assert batches.without_padding(TOKENS, text, EOS) is TOKENS


def test_a_row_without_end_keeps_everything() -> None:
    endless = torch.full((1, 8), 9)
    assert batches.without_padding(endless, TEXT, EOS).shape == (1, 8)


@pytest.mark.parametrize("text", [TEXT, replace(TEXT, pad_mask=False, causal=True), replace(TEXT, pool="mean")])
def test_embeddings_and_gradients_do_not_see_the_cut(text: TextTowerSpec) -> None:
    model = student(text).double()  # so that only a real difference is one
    tokens = torch.from_numpy(train_tokenizer(CAPTIONS, 300, text.context_length)(CAPTIONS))
    whole = model.encode_text(tokens)
    grouped = batches.encode_texts(model, tokens)
    torch.testing.assert_close(grouped, whole, rtol=0, atol=1e-6)
    direction = torch.randn(whole.shape, generator=torch.Generator().manual_seed(0)).double()
    parameters = list(model.text.parameters())
    expected = torch.autograd.grad((whole * direction).sum(), parameters)
    found = torch.autograd.grad((grouped * direction).sum(), parameters)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


@pytest.mark.parametrize("text", [TEXT, replace(TEXT, pad_mask=False)])
def test_words_of_the_same_pass_are_those_of_a_pass_of_their_own(text: TextTowerSpec) -> None:
    small = student(text)
    tokens = torch.from_numpy(train_tokenizer(CAPTIONS, 300, text.context_length)(CAPTIONS)).long()
    units, words = batches.encode_texts_and_words(small, tokens)
    is_word = small.text.is_word(tokens)
    assert words.shape == (len(CAPTIONS), text.context_length, text.width)
    torch.testing.assert_close(units, batches.encode_texts(small, tokens), atol=0, rtol=0)
    torch.testing.assert_close(words[is_word], small.text.features(tokens)[is_word], atol=1e-6, rtol=1e-5)


def test_pictures_come_channels_last() -> None:
    batch = Batch(torch.randn(2, 3, 4, 4), TOKENS, torch.arange(2))
    (moved,) = batches.on_device(iter([batch]), torch.device("cpu"), student(TEXT))
    assert moved.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(moved.images, batch.images)
    assert moved.tokens.shape == (2, 6)


def test_the_first_problems_are_named_and_the_others_counted() -> None:
    heard: list[str] = []

    class Listener(Console):
        def warn(self, text: str) -> None:
            heard.append(text)

    tell = batches.tell_problems(Listener())
    for i in range(150):
        tell(Problem("unreadable", f"key-{i}", "shard.tar", "the picture is empty (0 bytes)"))
    assert heard[0] == "a sample is left out: key-0 in shard.tar: the picture is empty (0 bytes)"
    assert len(heard) == batches.PROBLEMS_SHOWN + 2
    assert heard[-1] == "100 samples are left out so far; `clip-edge data check` names them all"


def test_readers() -> None:
    assert batches.reader_count(0) == 0
    assert batches.reader_count(3) == 3
    assert 1 <= batches.reader_count(-1) <= 8
