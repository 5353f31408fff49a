"""Students: unit vectors, cacheable features, and tokenizers that fit."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from clip_edge.distill.models.spec import load_spec
from clip_edge.distill.models.student import Student, build_student
from clip_edge.distill.models.tokenizers import train_tokenizer
from clip_edge.errors import ConfigError
from clip_edge.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["a red apple", "两只猫"], 4096, 32)


@pytest.fixture(scope="module")
def student(tokenizer: Tokenizer) -> Student:
    return build_student(load_spec("nano-vit"), tokenizer).eval()


def test_embeddings_are_unit_vectors(student: Student, tokenizer: Tokenizer) -> None:
    ids = torch.from_numpy(tokenizer(["a red apple", "", "两只猫"]))
    with torch.no_grad():
        for embeds in (student.encode_image(torch.randn(3, 3, 64, 64)), student.encode_text(ids)):
            assert embeds.shape == (3, 256)
            torch.testing.assert_close(embeds.norm(dim=1), torch.ones(3))


def test_cached_features_give_the_same_embedding(student: Student) -> None:
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(student.project_image(student.image_features(pixels)), student.encode_image(pixels))


def test_a_picture_does_not_depend_on_its_batch(student: Student) -> None:
    pixels = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(student.encode_image(pixels[2:3]), student.encode_image(pixels)[2:3])


def test_scale_and_bias(tokenizer: Tokenizer, student: Student) -> None:
    assert student.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    assert student.logit_bias is None
    spec = dataclasses.replace(load_spec("nano-vit"), logit_scale_init=10.0, logit_bias_init=-10.0)
    built = build_student(spec, tokenizer)
    assert built.logit_scale.item() == pytest.approx(math.log(10))
    assert built.logit_bias is not None
    assert built.logit_bias.item() == -10


def test_nano_vit_has_no_batch_statistics(student: Student) -> None:
    assert not [name for name, _ in student.named_buffers() if "running" in name]


def test_tokenizer_of_another_student() -> None:
    with pytest.raises(ConfigError) as caught:
        build_student(load_spec("nano-vit"), train_tokenizer(["a"], 300, 16))
    assert str(caught.value) == (
        "expected a tokenizer of context 32 with 4096 ids; found 16 with 300\n  in: student nano-vit\n\n"
        "hint: train the tokenizer with the student's own context_length and vocab_size"
    )
