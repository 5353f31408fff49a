"""What a LightCLIP student has beside it while it trains: none of this is exported.

Token alignment brings patches and words into one space; masked language modelling guesses hidden words from the
others and from the picture, which cross-attention injects into the text tower at several depths. After LightCLIP
(arXiv 2312.00674), which publishes no architecture of its fusion module: this one is ours.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_edge.distill.losses.masked import choose_masked, corrupt, masked_loss
from clip_edge.distill.losses.matching import Matching, alignment_loss
from clip_edge.distill.models.student import Student
from clip_edge.distill.models.text import HIDDEN
from clip_edge.errors import ConfigError


class LightStudent(nn.Module):
    """A student and its helpers, as one module to be trained, averaged and saved in checkpoints.

    Args:
        layers: blocks of the text tower before which the picture is injected, from 0; empty: before all of them.
            The last of them sees the deepest level of the image tower, the one before it the level below, and so on.
        align, guess: which helpers there are.
    """

    def __init__(self, student: Student, *, align: bool, guess: bool, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.student = student
        self.align: Alignment | None = None
        self.guess: Guess | None = None
        self.levels: list[int] = []
        if not align and not guess:
            return
        widths, depth = level_widths(student), len(student.text.blocks)
        layers = layers or tuple(range(depth))
        if not all(0 <= layer < depth for layer in layers):
            raise ConfigError(
                f"`words.layers` must name blocks of the text tower, 0..{depth - 1}; found {list(layers)}"
            )
        used = min(len(layers), len(widths)) if guess else 1
        self.levels = list(range(len(widths) - used, len(widths)))  # of the image tower, deepest last
        self.align = Alignment(widths[-1], student) if align else None
        self.guess = Guess(widths[-used:], student, layers) if guess else None

    def see(self, pixel_values: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, S, S) -> pooled features (B, F), and (B, N, C) of each level that a helper needs."""
        if not self.levels:
            return self.student.image_features(pixel_values), []
        trunk: Any = self.student.image.trunk
        last, maps = trunk.forward_intermediates(pixel_values, indices=self.levels)
        return trunk.forward_head(last), [one.flatten(2).transpose(1, 2) for one in maps]  # (B, C, H, W) -> (B, HW, C)


class Alignment(nn.Module):
    """Patches and words as unit vectors of one space."""

    def __init__(self, channels: int, student: Student) -> None:
        super().__init__()
        dim = student.spec.embed_dim
        self.patches = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, dim))
        self.words = nn.Sequential(nn.LayerNorm(student.spec.text.width), nn.Linear(student.spec.text.width, dim))

    def forward(self, patches: Tensor, words: Tensor, is_word: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
        """(B, N, C), (B, L, W), (B, L) -> losses (B,), and what counts of them (B,); see `alignment_loss`."""
        found = F.normalize(self.patches(patches).float(), dim=-1)
        read = F.normalize(self.words(words).float(), dim=-1)
        return alignment_loss(found, read, is_word, matching)


class Guess(nn.Module):
    """The text tower reads a sentence with gaps, without causal mask, and looks at the picture as it goes."""

    def __init__(self, channels: list[int], student: Student, layers: tuple[int, ...]) -> None:
        super().__init__()
        text = student.spec.text
        self.layers = layers
        # The layers share the levels evenly, the last layer with the deepest.
        self.level_of = [i * len(channels) // len(layers) for i in range(len(layers))]
        self.fusions = nn.ModuleList(Fusion(channels[level], text.width, text.heads) for level in self.level_of)
        self.mask_embedding = nn.Parameter(torch.randn(text.width) * 0.02)
        self.head = nn.Sequential(nn.Linear(text.width, text.width), nn.GELU(), nn.LayerNorm(text.width))
        tokens = student.text.tokens
        self.bias = nn.Parameter(torch.zeros(tokens.vocab_size))
        special = torch.tensor([tokens.pad_id, tokens.bos_id, tokens.eos_id])
        vocabulary = torch.arange(tokens.vocab_size)
        self.register_buffer("vocabulary", vocabulary[~torch.isin(vocabulary, special)], persistent=False)
        self.vocabulary: Tensor

    def forward(self, student: Student, input_ids: Tensor, maps: list[Tensor], ratio: float) -> tuple[Tensor, Tensor]:
        """(B, L), levels of (B, N, C) -> sums of cross-entropy over the hidden words (B,), and their number (B,)."""
        text = student.text
        chosen = choose_masked(text.is_word(input_ids), ratio)
        read, is_masked = corrupt(input_ids, chosen, self.vocabulary)
        words = text.token_embedding(read)
        x = torch.where(is_masked[..., None], self.mask_embedding.to(words.dtype), words)  # (B, L, W)
        x = x + text.position_embedding[: input_ids.shape[1]]
        padding = (~text.until_eos(input_ids)).to(x.dtype)[:, None, None, :] * HIDDEN  # (B, L) -> (B, 1, 1, L)
        for depth, block in enumerate(text.blocks):
            if depth in self.layers:
                place = self.layers.index(depth)
                x = self.fusions[place](x, maps[self.level_of[place]])
            x = block(x, padding)
        hidden = self.head(text.norm(x[chosen]))  # (M, W)
        logits = hidden @ text.token_embedding.weight.T + self.bias  # (M, W) @ (W, V) -> (M, V)
        return masked_loss(logits, input_ids, chosen), chosen.sum(1).float()


class Fusion(nn.Module):
    """h <- h + gate CrossAttention(LN(h), LN(Proj(F))); the gate starts at 0, so that nothing is disturbed at first."""

    def __init__(self, channels: int, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.picture = nn.Sequential(nn.Linear(channels, width), nn.LayerNorm(width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, patches: Tensor) -> Tensor:
        """(B, L, W), (B, N, C) -> (B, L, W)"""
        picture = self.picture(patches)  # (B, N, C) -> (B, N, W)
        seen, _ = self.attention(self.norm(x), picture, picture, need_weights=False)
        return x + self.gate * seen  # type: ignore[no-any-return]


def level_widths(student: Student) -> list[int]:
    """Channels of each feature level of the image tower, the deepest last.

    Raises:
        ConfigError: timm cannot show what is inside of this tower.
    """
    trunk: Any = student.image.trunk
    if not hasattr(trunk, "forward_intermediates"):
        raise ConfigError(
            f"`{student.spec.image.tower}` does not show its feature maps (forward_intermediates)",
            where=f"student {student.spec.name}",
            hint="switch token alignment and masked words off (tokens.weight=0, words.weight=0), or take another tower",
        )
    size, was_training = student.spec.image.size, trunk.training
    probe = torch.zeros(1, 3, size, size, device=next(trunk.parameters()).device)
    with torch.no_grad():  # in evaluation mode, so that BatchNorm statistics stay as they are
        _, maps = trunk.eval().forward_intermediates(probe)
    trunk.train(was_training)
    return [one.shape[1] for one in maps]
