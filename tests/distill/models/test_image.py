"""Image towers: any timm model with pooled features, and clear words for those that cannot be built."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from clip_edge.distill.models.heads import MapTrunk
from clip_edge.distill.models.image import ImageTower, build_trunk, memory_format
from clip_edge.distill.models.spec import HeadSpec, ImageSpec, load_spec
from clip_edge.errors import ConfigError


@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_shapes(projection: str) -> None:
    spec = ImageSpec("timm:resnet10t", 64, projection=projection, hidden=24)  # type: ignore[arg-type]
    tower = ImageTower(spec, 32).eval()
    with torch.no_grad():
        features = tower.trunk(torch.zeros(2, 3, 64, 64))
        assert features.shape == (2, tower.feature_dim)
        assert tower(torch.zeros(2, 3, 64, 64)).shape == (2, 32)


@pytest.mark.parametrize("name", ["nano-fastvit", "nano-s", "nano-vit", "nano-lite0"])
def test_feature_width_is_what_the_trunk_gives(name: str) -> None:
    spec = load_spec(name)
    tower = ImageTower(spec.image, spec.embed_dim).eval()
    with torch.no_grad():
        assert tower.trunk(torch.zeros(1, 3, spec.image.size, spec.image.size)).shape == (1, tower.feature_dim)


def test_without_projection_the_widths_must_agree() -> None:
    spec = ImageSpec("timm:resnet10t", 64, projection="none")
    assert ImageTower(spec, 512).feature_dim == 512
    with pytest.raises(ConfigError) as caught:
        ImageTower(spec, 64)
    assert caught.value.what == "`image.projection = none` needs a tower of 64 features; this one has 512"


def test_unknown_tower_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown timm model: `mobilenetv4_conv_smal`") as caught:
        ImageTower(ImageSpec("timm:mobilenetv4_conv_smal", 64), 32)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("did you mean `mobilenetv4_conv_small`?")


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv4_conv_small", "resnet10t", "fastvit_t8"])
def test_a_trunk_cut_after_some_levels(name: str) -> None:
    whole = ImageTower(ImageSpec(f"timm:{name}", 64), 32)
    cut = ImageTower(ImageSpec(f"timm:{name}", 64, levels=3), 32).eval()
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in whole.parameters()) / 2
    with torch.no_grad():
        assert cut.trunk(torch.zeros(2, 3, 64, 64)).shape == (2, cut.feature_dim)


def test_a_trunk_without_so_many_levels() -> None:
    with pytest.raises(ConfigError, match="timm cannot cut `resnet10t` after 9 feature levels") as caught:
        ImageTower(ImageSpec("timm:resnet10t", 64, levels=9), 32)
    assert caught.value.where == "image.levels"


def test_arguments_that_the_tower_does_not_take() -> None:
    with pytest.raises(ConfigError, match="timm cannot build `resnet10t` with these arguments") as caught:
        ImageTower(ImageSpec("timm:resnet10t", 64, args={"no_such_argument": 3}), 32)
    assert caught.value.where == "image.args"


FASTVIT_STEP = """
import torch
from clip_edge.distill.models.image import ImageTower, memory_format
from clip_edge.distill.models.spec import ImageSpec

cpu = torch.device("cpu")
tower = ImageTower(ImageSpec("timm:fastvit_t8", 96), 16)
layout = memory_format(tower.trunk, cpu)
tower.to(memory_format=layout)
for _ in range(2):
    tower(torch.randn(4, 3, 96, 96).to(memory_format=layout)).sum().backward()
print(layout)
"""


def test_fastvit_trains_on_a_cpu() -> None:
    done = subprocess.run([sys.executable, "-c", FASTVIT_STEP], capture_output=True, text=True)  # it may die
    assert (done.returncode, done.stdout.strip()) == (0, "torch.contiguous_format"), done.stderr


def test_others_compute_with_colours_last() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    small = build_trunk(ImageSpec("timm:mobilenetv3_small_050", 32))
    fast = build_trunk(ImageSpec("timm:fastvit_t8", 64))
    mapped = MapTrunk(fast, HeadSpec((2, 3), 16, 1, 2), 64)
    assert [memory_format(small, device) for device in (cpu, gpu)] == [torch.channels_last] * 2
    assert [memory_format(fast, device) for device in (cpu, gpu)] == [torch.contiguous_format, torch.channels_last]
    assert memory_format(mapped, cpu) == torch.contiguous_format
