"""The image tower: a timm trunk and a projection."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from clip_edge.distill.models.heads import ClipHead, MapTrunk
from clip_edge.distill.models.spec import ImageSpec
from clip_edge.errors import ConfigError, unknown_name


class ImageTower(nn.Module):
    """(B, 3, S, S) normalised pixels -> (B, D) embeddings, not yet normalised.

    `trunk` gives pooled features (B, F), or with `spec.head` a map (B, F, h, w); `projection` takes them to (B, D), so
    that the features of a frozen trunk can be computed once and kept.
    """

    def __init__(self, spec: ImageSpec, embed_dim: int) -> None:
        super().__init__()
        trunk = build_trunk(spec)
        if spec.head is not None:
            self.trunk: Any = MapTrunk(trunk, spec.head, spec.size)
            self.feature_dim = spec.head.width
            self.projection: nn.Module = ClipHead(spec.head, spec.hidden, embed_dim)
            return
        self.trunk = trunk
        self.feature_dim = int(cast(int, trunk.head_hidden_size))  # F; timm's name for what its head would take
        self.projection = _build_projection(spec, self.feature_dim, embed_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D)"""
        return self.projection(self.trunk(pixels))  # type: ignore[no-any-return]


def memory_format(trunk: nn.Module, device: torch.device) -> torch.memory_format:
    """The layout of pictures and weights in which `trunk` computes fastest on `device`: colours last.

    Not for FastViT on a CPU: from 96 pixels on its large depthwise kernels write past their memory in that layout
    (torch 2.14), and the process dies.
    """
    from timm.models.fastvit import FastVit

    inner = trunk.trunk if isinstance(trunk, MapTrunk) else trunk
    return torch.contiguous_format if device.type == "cpu" and isinstance(inner, FastVit) else torch.channels_last


def build_trunk(spec: ImageSpec) -> nn.Module:
    """A timm model without classifier and with random weights; nothing is downloaded.

    Raises:
        ConfigError: timm has no such model, or the model does not take these arguments.
    """
    import timm

    name = spec.tower.removeprefix("timm:")
    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models(), error=ConfigError)
    arguments = {key: _tuples(value) for key, value in spec.args.items()}
    try:
        trunk: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    except Exception as problem:  # timm checks little: wrong arguments end anywhere inside the model
        raise ConfigError(
            f"timm cannot build `{name}` with these arguments: {problem}",
            where="image.args",
            hint="the arguments are those of timm.create_model",
        ) from problem
    if spec.stem_padding is not None:
        stem = next(module for module in trunk.modules() if isinstance(module, nn.Conv2d))
        stem.padding = (spec.stem_padding, spec.stem_padding)
    if spec.levels is not None:
        _cut(trunk, name, spec.levels)
    if not hasattr(trunk, "head_hidden_size"):
        raise ConfigError(f"`{name}` has no pooled features of known width", hint="choose another timm model")
    return trunk


def _cut(trunk: Any, name: str, levels: int) -> None:
    """Keep the first `levels` feature levels of a timm model, and the average over the last of them."""
    try:
        trunk.prune_intermediate_layers([levels - 1], prune_norm=True, prune_head=True)
        trunk.reset_classifier(0, "avg")
    except Exception as problem:  # not every timm model can, and each says so in its own way
        raise ConfigError(
            f"timm cannot cut `{name}` after {levels} feature levels: {problem}",
            where="image.levels",
            hint="leave `levels` out, or name fewer",
        ) from problem


def _build_projection(spec: ImageSpec, feature_dim: int, embed_dim: int) -> nn.Module:
    if spec.projection == "linear":
        return nn.Linear(feature_dim, embed_dim)
    if spec.projection == "mlp":
        return nn.Sequential(nn.Linear(feature_dim, spec.hidden), nn.GELU(), nn.Linear(spec.hidden, embed_dim))
    if feature_dim != embed_dim:
        raise ConfigError(
            f"`image.projection = none` needs a tower of {embed_dim} features; this one has {feature_dim}",
            hint='set `image.projection` to "linear", or `embed_dim` to the features of the tower',
        )
    return nn.Identity()


def _tuples(value: Any) -> Any:
    """JSON lists as the tuples that timm expects."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
