"""The text tower: a transformer over tokens, written so that it exports without surprises."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_edge.distill.models.mixer import TextMixer
from clip_edge.distill.models.spec import TextTowerSpec
from clip_edge.tokenizer import TextSpec

# Added to attention logits that must not count. Finite, because -inf turns into NaN in half-precision runtimes; far
# below any logit, so that exp() of the difference is exactly 0 in fp32, fp16 and bf16.
HIDDEN = -1e4


class TextTower(nn.Module):
    """(B, L) token ids -> (B, D) embeddings, not yet normalised. Vaswani et al. 2017 with pre-norm, as CLIP has it."""

    def __init__(self, spec: TextTowerSpec, tokens: TextSpec, embed_dim: int) -> None:
        super().__init__()
        self.spec = spec
        self.tokens = tokens
        self.token_embedding = nn.Embedding(tokens.vocab_size, spec.width)
        self.position_embedding = nn.Parameter(torch.empty(spec.context_length, spec.width))
        blocks: list[nn.Module] = [Block(spec.width, spec.heads, spec.mlp_ratio) for _ in range(spec.depth)]
        if spec.mixer_kernel is not None:
            first, last = (TextMixer(spec.width, spec.mixer_kernel, spec.mlp_ratio) for _ in range(2))
            blocks = [first, *blocks, last]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(spec.width)
        self.projection = nn.Linear(spec.width, embed_dim, bias=False)
        self.causal_mask: Tensor | None
        mask = torch.full((spec.context_length, spec.context_length), HIDDEN).triu(1) if spec.causal else None
        self.register_buffer("causal_mask", mask, persistent=False)
        self._initialise()

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, L) ids of any integer type -> (B, D)."""
        return self.project(self.features(input_ids), input_ids)

    def features(self, input_ids: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, W): what the last block makes of every token."""
        length = input_ids.shape[1]
        x = self.token_embedding(input_ids) + self.position_embedding[:length]  # (B, L) -> (B, L, W)
        mask = self._mask(input_ids, x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        return x  # type: ignore[no-any-return]

    def project(self, x: Tensor, input_ids: Tensor) -> Tensor:
        """(B, L, W) features of the tokens -> (B, D) embeddings of the sentences, not yet normalised."""
        return self.projection(self.norm(self._pool(x, input_ids)))  # type: ignore[no-any-return]

    def until_eos(self, input_ids: Tensor) -> Tensor:
        """(B, L) booleans: the sentence with its start and first EOS, and nothing of the padding."""
        return self._until_eos(input_ids, torch.float32).bool()

    def is_word(self, input_ids: Tensor) -> Tensor:
        """(B, L) booleans: between start and first EOS."""
        return self.until_eos(input_ids) & (input_ids != self.tokens.bos_id) & (input_ids != self.tokens.eos_id)

    def _mask(self, input_ids: Tensor, dtype: torch.dtype) -> Tensor | None:
        """What attention adds to its logits: (L, L) when causal, (B, 1, 1, L) when padding is hidden, or both."""
        length = input_ids.shape[1]
        mask = None
        if self.causal_mask is not None:
            mask = self.causal_mask[:length, :length].to(dtype)
        if self.spec.pad_mask:
            padding = (1.0 - self._until_eos(input_ids, dtype)) * HIDDEN
            padding = padding[:, None, None, :]  # (B, L) -> (B, 1, 1, L)
            mask = padding if mask is None else mask + padding
        return mask

    def _pool(self, x: Tensor, input_ids: Tensor) -> Tensor:
        """(B, L, W) -> (B, W): the first EOS, or the mean of everything up to it."""
        if self.spec.pool == "mean":
            weights = self._until_eos(input_ids, x.dtype)
            weights = weights / weights.sum(1, keepdim=True)
        else:
            weights = first_eos(input_ids, self.tokens.eos_id).to(x.dtype)
        return (weights.unsqueeze(1) @ x).squeeze(1)  # (B, 1, L) @ (B, L, W) -> (B, W)

    def _until_eos(self, input_ids: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, L): 1 up to and including the first EOS, 0 behind it. What follows EOS is padding, whatever its id."""
        length = input_ids.shape[1]
        position = torch.arange(length, device=input_ids.device, dtype=torch.float32)
        end = length - eos_rank(input_ids, self.tokens.eos_id).amax(1, keepdim=True)  # position of the first EOS
        return (position <= end).to(dtype)

    @torch.no_grad()
    def _initialise(self) -> None:
        """CLIP's initialisation: residual branches shrink with depth, so that the sum stays at unit scale."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding, std=0.01)
        nn.init.normal_(self.projection.weight, std=self.spec.width**-0.5)
        for block in self.blocks:
            if isinstance(block, Block):
                block.initialise(self.spec.depth)


def eos_rank(input_ids: Tensor, eos_id: int | Tensor) -> Tensor:
    """(B, L) float: no two alike, and the first EOS is the largest (the first token, when there is no EOS).

    A maximum over distinct numbers needs neither a gather nor a rule for ties, on which runtimes disagree, and
    floats keep it away from int64 kernels that they lack.
    """
    length = input_ids.shape[1]
    position = torch.arange(length, device=input_ids.device, dtype=torch.float32)
    return (input_ids == eos_id).float() * length - position


def first_eos(input_ids: Tensor, eos_id: int | Tensor) -> Tensor:
    """(B, L) booleans: true at the first EOS of each row, and nowhere else."""
    rank = eos_rank(input_ids, eos_id)
    return rank == rank.amax(1, keepdim=True)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a LayerNorm and inside a residual."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, W) -> (B, L, W); `mask` is added to the attention logits."""
        x = x + self._attend(self.norm1(x), mask)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, L, 3W) -> (B, L, 3, H, W/H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # three of (B, H, L, W/H)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def initialise(self, depth: int) -> None:
        """Weights as CLIP draws them, biases zero."""
        width = self.out.out_features
        for linear, std in (
            (self.qkv, width**-0.5),
            (self.out, width**-0.5 * (2 * depth) ** -0.5),
            (self.fc1, (2 * width) ** -0.5),
            (self.fc2, width**-0.5 * (2 * depth) ** -0.5),
        ):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)
