"""The helpers of a LightCLIP student: they see what the tower sees, and leave the student as it is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from clip_edge.distill.models.fusion import LightStudent, level_widths
from clip_edge.distill.models.spec import ImageSpec, load_spec
from clip_edge.distill.models.student import Student
from clip_edge.errors import ConfigError
from clip_edge.tokenizer import TextSpec

TOKENS = TextSpec(16, 300, 0, 1, 2, "none")
SPEC = load_spec("nano-vit")
TEXT = dataclasses.replace(SPEC.text, depth=2, width=32, heads=2, context_length=16)
SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
TOWERS: list[tuple[str, dict[str, object]]] = [
    ("resnet10t", {"channels": [8, 16, 16, 32], "stem_width": 8}),
    ("vit_tiny_patch16_224", {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}),
    ("swin_tiny_patch4_window7_224", SWIN),
    ("mobilenetv4_conv_small", {}),
    ("mobilenetv3_large_100", {}),
    ("fastvit_t8", {"layers": [1, 1, 1, 1], "embed_dims": [8, 16, 32, 64]}),
]


def student(tower: str, args: dict[str, object]) -> Student:
    torch.manual_seed(0)
    image = ImageSpec(f"timm:{tower}", 64, args)
    tokenizer = dataclasses.replace(SPEC.tokenizer, vocab_size=300)
    return Student(dataclasses.replace(SPEC, embed_dim=16, image=image, text=TEXT, tokenizer=tokenizer), TOKENS)


def light(align: bool = True, guess: bool = True, layers: tuple[int, ...] = ()) -> LightStudent:
    return LightStudent(student(*TOWERS[0]), align=align, guess=guess, layers=layers).eval()


def sentences() -> Tensor:
    ids = torch.zeros(3, 16, dtype=torch.int64)
    for row, count in enumerate((4, 14, 0)):
        ids[row, 0] = 1
        ids[row, 1 : 1 + count] = torch.arange(10, 10 + count)
        ids[row, 1 + count] = 2
    return ids


@pytest.mark.parametrize(("tower", "args"), TOWERS)
def test_the_features_beside_the_levels_are_those_of_the_tower(tower: str, args: dict[str, object]) -> None:
    built = student(tower, args).eval()
    model = LightStudent(built, align=True, guess=True, layers=()).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features, maps = model.see(pixels)
        assert torch.equal(features, built.image_features(pixels))
    widths = level_widths(built)
    assert [one.shape[2] for one in maps] == widths[-2:]
    assert all(one.shape[0] == 2 for one in maps)


def test_a_batchnorm_moves_as_in_plain_training() -> None:
    pixels = torch.randn(4, 3, 64, 64)
    plain, beside = student(*TOWERS[0]).train(), light().train()
    plain.image_features(pixels)
    beside.see(pixels)
    for (name, one), other in zip(plain.named_buffers(), beside.student.buffers(), strict=True):
        assert torch.equal(one, other), name


def test_nothing_is_computed_that_nobody_needs() -> None:
    model = light(align=False, guess=False)
    assert len(list(model.parameters())) == len(list(model.student.parameters()))
    assert model.see(torch.zeros(1, 3, 64, 64))[1] == []


def test_a_tower_that_hides_its_levels_is_fine_without_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    built = student(*TOWERS[0])
    monkeypatch.delattr(type(built.image.trunk), "forward_intermediates")
    LightStudent(built, align=False, guess=False, layers=())
    with pytest.raises(ConfigError, match="does not show its feature maps") as caught:
        LightStudent(built, align=True, guess=False, layers=())
    assert caught.value.exit_code == 2


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must name blocks of the text tower, 0\.\.1; found \[2\]"):
        light(layers=(2,))


def test_fusion_starts_as_nothing_and_then_looks_at_the_picture() -> None:
    model, ids = light(), sentences()
    assert model.guess is not None
    maps = [torch.randn(3, 4, width) for width in level_widths(model.student)[-2:]]
    with torch.no_grad():

        def guess(pictures: list[Tensor]) -> Tensor:
            torch.manual_seed(1)
            sums, counts = model.guess(model.student, ids, pictures, 0.5)  # type: ignore[misc]
            assert counts.tolist() == [2.0, 7.0, 0.0]
            return sums

        other = [torch.randn_like(one) for one in maps]
        assert torch.equal(guess(maps), guess(other))
        for fusion in model.guess.fusions:
            fusion.gate.fill_(1.0)  # type: ignore[operator, union-attr]
        assert not torch.equal(guess(maps), guess(other))
        assert guess(maps)[2] == 0  # an empty caption


def test_padding_says_nothing() -> None:
    model = light()
    assert model.guess is not None
    ids = sentences()
    maps = [torch.randn(3, 4, width) for width in level_widths(model.student)[-2:]]
    behind = ids.clone()
    behind[0, 6:] = 77  # whatever stands behind the first EOS
    with torch.no_grad():
        found = []
        for one in (ids, behind):
            torch.manual_seed(1)
            found.append(model.guess(model.student, one, maps, 0.5)[0][0])
    assert torch.allclose(found[0], found[1], atol=1e-5)
    words = model.student.text.is_word(ids)
    assert words.sum(1).tolist() == [4, 14, 0]


def test_every_helper_learns() -> None:
    model, ids = light().train(), sentences()
    assert model.align is not None
    assert model.guess is not None
    _, maps = model.see(torch.randn(3, 3, 64, 64))
    text = model.student.text
    losses, _ = model.align(maps[-1], text.features(ids), text.is_word(ids), "relaxed")
    sums, _ = model.guess(model.student, ids, maps, 0.5)
    (losses.sum() + sums.sum()).backward()  # type: ignore[no-untyped-call]
    still = {name for name, p in model.named_parameters() if p.grad is None}
    # The gate is 0 at first: what is behind it learns from the second step on, but is part of the graph.
    assert {name for name in still if not name.startswith("student.")} == set()
    assert model.student.text.token_embedding.weight.grad is not None
