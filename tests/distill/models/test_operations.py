"""Counting multiply-adds: by hand for a text tower, and against the published figure of a known trunk."""

from __future__ import annotations

from dataclasses import replace

from clip_edge.distill.models.operations import count_operations
from clip_edge.distill.models.spec import StudentSpec, load_spec
from clip_edge.distill.models.student import Student
from clip_edge.tokenizer import TextSpec


def student(spec: StudentSpec) -> Student:
    tokens = TextSpec(
        context_length=spec.text.context_length,
        vocab_size=spec.tokenizer.vocab_size,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        clean="none",
    )
    return Student(spec, tokens)


def test_a_text_tower_by_hand() -> None:
    spec = load_spec("nano-xs")
    width, length, depth, dim = spec.text.width, spec.text.context_length, spec.text.depth, spec.embed_dim
    block = 12 * width**2 * length + 2 * length**2 * width  # qkv, out, two layers of the MLP; scores and their mixture
    pooling = length * width
    assert count_operations(student(spec)).text == depth * block + pooling + width * dim


def test_efficientnet_lite0_has_its_published_size() -> None:
    """407 M multiply-adds at 224 pixels, classifier included (TensorFlow's table of EfficientNet-Lite)."""
    whole = load_spec("nano-lite0")
    spec = replace(whole, image=replace(whole.image, size=224, projection="linear"))
    built = student(spec).train()
    assert abs(count_operations(built).image / 407e6 - 1) < 0.06
    assert built.training
