"""One map for several heads: levels that add up, and places that mean what the whole picture means."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clip_edge.distill.models.heads import ChannelNorm, ClipHead, MapTrunk
from clip_edge.distill.models.image import ImageTower, build_trunk
from clip_edge.distill.models.spec import HeadSpec, ImageSpec
from clip_edge.errors import ConfigError

SPEC = HeadSpec(levels=(2, 3, 4), width=16, depth=2, heads=2)


def image_spec(head: HeadSpec = SPEC, tower: str = "mobilenetv4_conv_small_050") -> ImageSpec:
    return ImageSpec(f"timm:{tower}", 64, head=head, hidden=24)


@pytest.mark.parametrize(("levels", "side"), [((2, 3, 4), 8), ((3, 4), 4), ((3,), 4)])
def test_the_finest_level_gives_the_resolution(levels: tuple[int, ...], side: int) -> None:
    tower = ImageTower(image_spec(HeadSpec(levels, 16, 1, 2)), 12).eval()
    with torch.no_grad():
        found = tower.trunk(torch.zeros(2, 3, 64, 64))
        assert found.shape == (2, 16, side, side)
        assert tower.projection(found).shape == tower(torch.zeros(2, 3, 64, 64)).shape == (2, 12)
    assert tower.feature_dim == 16


def test_a_transformer_has_one_level() -> None:
    spec = ImageSpec("timm:vit_tiny_patch16_224", 64, args={"img_size": 64}, head=HeadSpec((11,), 16, 1, 2))
    assert ImageTower(spec, 12).eval().trunk(torch.zeros(1, 3, 64, 64)).shape == (1, 16, 4, 4)


def test_a_map_of_another_size() -> None:
    tower = ImageTower(image_spec(), 12).eval()
    assert tower(torch.zeros(1, 3, 96, 96)).shape == (1, 12)


def test_every_level_counts() -> None:
    trunk = MapTrunk(build_trunk(image_spec()), SPEC, 64)
    trunk(torch.randn(2, 3, 64, 64)).sum().backward()
    for lateral in trunk.lateral:
        assert isinstance(lateral, nn.Conv2d)
        assert lateral.weight.grad is not None
        assert lateral.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("levels", "what"),
    [
        ((9,), r"timm cannot show the feature levels \[9\] of this tower: "),
        ((1, 3), r"the levels must halve from one to the next; found maps of \[\(16, 16\), \(4, 4\)\]"),
    ],
)
def test_levels_that_do_not_fit(levels: tuple[int, ...], what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        ImageTower(image_spec(HeadSpec(levels, 16, 1, 2)), 12)
    assert caught.value.where == "image.head.levels"


def test_a_tower_that_shows_no_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = build_trunk(image_spec())
    monkeypatch.delattr(type(trunk), "forward_intermediates")
    with pytest.raises(ConfigError) as caught:
        MapTrunk(trunk, SPEC, 64)
    assert caught.value.what == "timm does not show the feature levels of this tower (forward_intermediates)"


def test_a_place_alone_is_the_whole_picture() -> None:
    head = ClipHead(SPEC, 24, 12).eval()
    one = torch.randn(3, 16, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(head.patches(one)[:, :, 0, 0], head(one))


def test_both_are_the_two() -> None:
    head = ClipHead(SPEC, 24, 12).eval()
    found = torch.randn(2, 16, 4, 6)
    with torch.no_grad():
        pooled, places = head.both(found)
        assert torch.equal(pooled, head(found))
        assert torch.equal(places, head.patches(found))
    assert places.shape == (2, 12, 4, 6)


def test_the_norm_looks_at_one_place() -> None:
    found = ChannelNorm(16)(torch.randn(2, 16, 3, 5) * 7 + 2)
    torch.testing.assert_close(found.mean(1), torch.zeros(2, 3, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.var(1, unbiased=False), torch.ones(2, 3, 5), atol=1e-3, rtol=0)
