"""Places of a picture in text space, for merged and for plain students."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from clip_edge.distill.models.dense import embed_map, encode_map, patch_embeds
from clip_edge.distill.models.spec import ImageSpec, StudentSpec, load_spec
from clip_edge.distill.models.student import Student
from clip_edge.errors import ConfigError
from clip_edge.tokenizer import TextSpec


def build(spec: StudentSpec) -> Student:
    torch.manual_seed(0)
    return Student(spec, TextSpec(spec.text.context_length, spec.tokenizer.vocab_size, 0, 1, 2, "none")).eval()


def with_tower(tower: str, **arguments: object) -> Student:
    spec = load_spec("nano-s")
    return build(dataclasses.replace(spec, image=ImageSpec(f"timm:{tower}", 64, **arguments)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "grid"),
    [("nano-sam", (12, 12)), ("nano-s", (2, 2)), ("nano-vit", (8, 8)), ("nano-fastvit", (2, 2)), ("nano-xs", (4, 4))],
)
@torch.no_grad()
def test_a_map_gives_the_picture_and_its_places(name: str, grid: tuple[int, int]) -> None:
    student = build(load_spec(name))
    pixels = torch.randn(2, 3, student.spec.image.size, student.spec.image.size)
    found = encode_map(student, pixels)
    torch.testing.assert_close(embed_map(student, found), student.encode_image(pixels), atol=1e-6, rtol=0)
    places = patch_embeds(student, found)
    assert places.shape == (2, student.spec.embed_dim, *grid)
    torch.testing.assert_close(places.norm(dim=1), torch.ones(2, *grid))


@pytest.mark.parametrize("tower", ["resnet10t", "mobilenetv4_conv_small", "swin_nano"])
@torch.no_grad()
def test_in_a_picture_of_one_place_it_is_the_picture(tower: str) -> None:
    if tower == "swin_nano":
        image = load_spec("lightclip-swin-t4").image
        student = build(dataclasses.replace(load_spec("nano-s"), image=image))
        found = torch.randn(2, 1, 1, student.image.feature_dim)  # timm's own order: channels last
    else:
        student = with_tower(tower)
        found = encode_map(student, torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(patch_embeds(student, found)[:, :, 0, 0], embed_map(student, found))


def test_a_tower_that_pools_by_attention() -> None:
    student = with_tower("vit_tiny_patch16_224", args={"img_size": 64, "global_pool": "map", "class_token": False})
    with torch.no_grad(), pytest.raises(ConfigError) as caught:
        patch_embeds(student, encode_map(student, torch.zeros(1, 3, 64, 64)))
    assert caught.value.what == (
        "`timm:vit_tiny_patch16_224` pools by attention: single places of its map are not in text space"
    )
