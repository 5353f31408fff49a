"""One feature map for several heads, and the CLIP head of a merged student (after SAM-CLIP, arXiv 2310.15308).

The paper puts three transformer layers, a max-pool, a LayerNorm and a perceptron on SAM's backbone. Its backbone has
one resolution; that of small convolutional towers falls from level to level, so a neck brings the levels together
first (a feature pyramid, Lin et al. 2017).
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_edge.distill.models.spec import HeadSpec
from clip_edge.distill.models.text import Block
from clip_edge.errors import ConfigError


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)"""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MapTrunk(nn.Module):
    """(B, 3, S, S) -> (B, C, h, w): the levels of a timm trunk that `spec` names, added up at the finest of them.

    Raises:
        ConfigError: timm cannot show the levels of this trunk, or they do not halve from one to the next.
    """

    def __init__(self, trunk: nn.Module, spec: HeadSpec, size: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.levels = list(spec.levels)
        shapes = self._shapes(size)
        self.sides = shapes[0][1:]
        self.lateral = nn.ModuleList(nn.Conv2d(channels, spec.width, 1) for channels, _, _ in shapes)
        self.raise_ = nn.ModuleList(nn.ConvTranspose2d(spec.width, spec.width, 2, 2) for _ in shapes[1:])
        self.norm = ChannelNorm(spec.width)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, C, h, w)"""
        maps = self._maps(pixels)
        x = self.lateral[-1](maps[-1])
        for lateral, up, level in zip(self.lateral[-2::-1], self.raise_, maps[-2::-1], strict=True):
            x = up(F.gelu(x)) + lateral(level)  # (B, C, h, w) -> (B, C, 2h, 2w)
        return self.norm(x)  # type: ignore[no-any-return]

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        trunk: Any = self.trunk
        return list(trunk.forward_intermediates(pixels, indices=self.levels, intermediates_only=True))

    def _shapes(self, size: int) -> list[tuple[int, int, int]]:
        """(C, h, w) of each level."""
        if not hasattr(self.trunk, "forward_intermediates"):
            raise ConfigError(
                "timm does not show the feature levels of this tower (forward_intermediates)",
                where="image.head",
                hint="take another tower",
            )
        was_training = self.trunk.training
        self.trunk.eval()  # BatchNorm statistics stay as they are
        device = next(self.trunk.parameters()).device
        try:
            with torch.no_grad():
                maps = self._maps(torch.zeros(1, 3, size, size, device=device))
        except (IndexError, AssertionError, ValueError) as problem:
            raise ConfigError(
                f"timm cannot show the feature levels {self.levels} of this tower: {problem}",
                where="image.head.levels",
            ) from problem
        finally:
            self.trunk.train(was_training)
        shapes = [(one.shape[1], one.shape[2], one.shape[3]) for one in maps]
        for finer, coarser in itertools.pairwise(shapes):
            if (coarser[1] * 2, coarser[2] * 2) != finer[1:]:
                raise ConfigError(
                    f"the levels must halve from one to the next; found maps of {[one[1:] for one in shapes]}",
                    where="image.head.levels",
                    hint="for a tower of one resolution name one level",
                )
        return shapes


class ClipHead(nn.Module):
    """(B, C, h, w) -> (B, D): transformer layers over the places of the map, max-pool, LayerNorm, perceptron.

    Every place can be taken into text space by itself (`patches`), which is what segmentation by words needs. There
    is no embedding of positions, so the map may have any size.
    """

    def __init__(self, spec: HeadSpec, hidden: int, embed_dim: int) -> None:
        super().__init__()
        blocks = [Block(spec.width, spec.heads, spec.mlp_ratio) for _ in range(spec.depth)]
        for block in blocks:
            block.initialise(spec.depth)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(spec.width)
        self.mlp = nn.Sequential(
            nn.Linear(spec.width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, embed_dim)
        )

    def forward(self, feature_map: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D), not yet normalised."""
        return self._embed(self._mix(feature_map).amax(1))  # (B, N, C) -> (B, C) -> (B, D)

    def patches(self, feature_map: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w), not yet normalised."""
        return self.both(feature_map)[1]

    def both(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> (B, D) and (B, D, h, w), not yet normalised; the layers are computed once."""
        mixed = self._mix(feature_map)
        places = self._embed(mixed).transpose(1, 2)  # (B, N, D) -> (B, D, N)
        high, wide = feature_map.shape[2:]
        return self._embed(mixed.amax(1)), places.reshape(*places.shape[:2], high, wide)

    def _mix(self, feature_map: Tensor) -> Tensor:
        x = feature_map.flatten(2).transpose(1, 2)  # (B, C, h, w) -> (B, N, C)
        for block in self.blocks:
            x = block(x, None)
        return x

    def _embed(self, x: Tensor) -> Tensor:
        return self.mlp(self.norm(x))  # type: ignore[no-any-return]
