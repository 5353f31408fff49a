"""The mask head of a merged student: prompts in, outlines out. The structure of SAM's (Kirillov et al. 2023, arXiv
2304.02643, appendix A) with widths of our own; it stands on the same feature map as the CLIP head."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_edge.distill.models.heads import ChannelNorm, MapTrunk
from clip_edge.distill.models.spec import MaskSpec

MASKS = 3  # answers to one prompt: the whole, a part, a part of it
UPSCALE = 4  # a mask has four times the resolution of the map


def mask_side(trunk: MapTrunk) -> int:
    """The side of the masks of a picture that has the student's own size: four times that of the map."""
    return UPSCALE * trunk.sides[0]


class MaskHead(nn.Module):
    """Prompts are points of the square input picture: `points` (B, P, 2) as x and y in 0..1, `labels` (B, P).

    A box is two points. Rows may be padded with label -1.
    """

    def __init__(self, spec: MaskSpec, channels: int) -> None:
        super().__init__()
        self.spec = spec
        width = spec.width
        self.neck = nn.Sequential(nn.Conv2d(channels, width, 1), ChannelNorm(width))
        self.no_mask = nn.Parameter(torch.randn(width, 1, 1) * 0.02)
        self.register_buffer("frequencies", torch.randn(2, width // 2))  # random Fourier features, Tancik et al. 2020
        self.frequencies: Tensor
        self.kinds = nn.Embedding(5, width)  # padding, outside, inside, two corners of a box
        self.answers = nn.Parameter(torch.randn(1 + MASKS, width))  # the token of the IoU, then one for each mask
        self.layers = nn.ModuleList(TwoWay(width, spec.heads, first=depth == 0) for depth in range(spec.depth))
        self.last_look = Attention(width, spec.heads)
        self.last_norm = nn.LayerNorm(width)
        self.upscale = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, 2),
            ChannelNorm(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, 2),
            nn.GELU(),
        )
        self.kernels = nn.ModuleList(_perceptron(width, width // 8) for _ in range(MASKS))
        self.quality = _perceptron(width, MASKS)

    def forward(self, feature_map: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w), (B, P, 2), (B, P) -> logits of three masks (B, 3, 4h, 4w), IoU expected of each (B, 3)."""
        picture = self.neck(feature_map) + self.no_mask
        places = self._grid(picture)  # (1, N, W)
        high, wide = picture.shape[2:]
        picture = picture.flatten(2).transpose(1, 2)  # (B, W, h, w) -> (B, N, W)
        prompts = self._prompts(points, labels)  # (B, P, W)
        queries = torch.cat([self.answers.expand(points.shape[0], -1, -1), prompts], dim=1)  # (B, 4 + P, W)
        x = queries
        for layer in self.layers:
            x, picture = layer(x, picture, queries, places)
        x = self.last_norm(x + self.last_look(x + queries, picture + places, picture))
        fine = self.upscale(picture.transpose(1, 2).reshape(x.shape[0], -1, high, wide))  # (B, W/8, 4h, 4w)
        kernels = torch.stack([kernel(x[:, 1 + i]) for i, kernel in enumerate(self.kernels)], dim=1)  # (B, 3, W/8)
        logits = (kernels @ fine.flatten(2)).reshape(x.shape[0], MASKS, *fine.shape[2:])
        return logits, self.quality(x[:, 0])

    def _prompts(self, points: Tensor, labels: Tensor) -> Tensor:
        """(B, P, 2), (B, P) -> (B, P, W): where a point is and what it is; padding only says that it is."""
        is_there = (labels >= 0).to(points.dtype).unsqueeze(-1)
        return self._waves(points) * is_there + self.kinds(labels + 1)  # type: ignore[no-any-return]

    def _grid(self, picture: Tensor) -> Tensor:
        """(B, W, h, w) -> (1, N, W): the positions of the centres of all places."""
        high, wide = picture.shape[2:]
        y = (torch.arange(high, device=picture.device, dtype=picture.dtype) + 0.5) / high
        x = (torch.arange(wide, device=picture.device, dtype=picture.dtype) + 0.5) / wide
        centres = torch.stack([x.expand(high, wide), y[:, None].expand(high, wide)], dim=-1)  # (h, w, 2)
        return self._waves(centres.flatten(0, 1)[None])

    def _waves(self, points: Tensor) -> Tensor:
        """(..., 2) in 0..1 -> (..., W)"""
        angle = 2 * math.pi * ((2 * points - 1) @ self.frequencies.to(points.dtype))
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class TwoWay(nn.Module):
    """Prompts look at themselves and at the picture, then the picture looks at them; norms stand behind, as in SAM."""

    def __init__(self, width: int, heads: int, *, first: bool) -> None:
        super().__init__()
        self.first = first  # the prompts carry their positions already
        self.own, self.look, self.back = (Attention(width, heads) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))

    def forward(self, x: Tensor, picture: Tensor, queries: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, W), (B, N, W), and the positions of both -> the same two."""
        named = x if self.first else x + queries
        seen = self.own(named, named, x)
        x = self.norms[0](seen if self.first else x + seen)
        x = self.norms[1](x + self.look(x + queries, picture + places, picture))
        x = self.norms[2](x + self.mlp(x))
        picture = self.norms[3](picture + self.back(picture + places, x + queries, x))
        return x, picture


class Attention(nn.Module):
    """Attention between two sequences; Vaswani et al. 2017."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, T, W), (B, N, W), (B, N, W) -> (B, T, W)"""
        mixed = F.scaled_dot_product_attention(self._split(self.q(q)), self._split(self.k(k)), self._split(self.v(v)))
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, x.shape[-1] // self.heads).transpose(1, 2)  # (B, H, N, W/H)


def _perceptron(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))
