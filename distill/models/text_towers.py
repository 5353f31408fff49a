"""Text towers of other libraries, from ids alone: finite masks made from the padding id, pooling without a gather.

Each takes two steps, as our own `TextTower`: `features` of all tokens, and `project`, which makes the embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from clip_edge.distill.models.pretrained import Pooling
from clip_edge.distill.models.text import HIDDEN, first_eos


def causal_mask(length: int) -> Tensor:
    """(L, L): what attention adds so that no token sees a later one."""
    return torch.full((length, length), HIDDEN).triu(1)


def padding_mask(input_ids: Tensor, pad_id: int, dtype: torch.dtype) -> Tensor:
    """(B, L) -> (B, 1, 1, L): what attention adds so that no token sees padding."""
    return ((input_ids == pad_id).to(dtype) * HIDDEN)[:, None, None, :]


def pool(x: Tensor, input_ids: Tensor, kind: Pooling, token_id: int | None) -> Tensor:
    """(B, L, W) -> (B, W). `token_id` is EOS for `eos` (None: the largest id), and padding, left out, for `mean`."""
    if kind == "first":
        return x[:, 0]
    if kind == "last":
        return x[:, -1]
    token = input_ids.amax(1, keepdim=True) if token_id is None else token_id
    weights = (first_eos(input_ids, token) if kind == "eos" else input_ids != token).to(x.dtype)
    if kind == "mean":
        weights = weights / weights.sum(1, keepdim=True)
    return (weights.unsqueeze(1) @ x).squeeze(1)  # (B, 1, L) @ (B, L, W) -> (B, W)


class Head(nn.Module):
    """A matrix that open_clip keeps as a bare parameter: (B, W) -> (B, D)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight  # (W, D), shared

    def forward(self, x: Tensor) -> Tensor:
        """(B, W) -> (B, D)"""
        return x @ self.weight


class TextOfTokens(nn.Module, ABC):
    """(B, L) token ids -> (B, D), by way of the features of the tokens."""

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, L) -> (B, D)"""
        return self.project(self.features(input_ids), input_ids)

    @abstractmethod
    def features(self, input_ids: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, W): what the last block makes of every token, as it goes into the pooling."""

    @abstractmethod
    def project(self, x: Tensor, input_ids: Tensor) -> Tensor:
        """(B, L, W) features of the tokens -> (B, D)"""


class OpenClipText(TextOfTokens):
    """open_clip's own text transformer, whether it is a module or spread over the model (`CLIP`)."""

    def __init__(self, text: Any, context_length: int, pooling: Pooling, eos_id: int) -> None:
        super().__init__()
        self.token_embedding, self.transformer, self.norm = text.token_embedding, text.transformer, text.ln_final
        self.position_embedding = text.positional_embedding
        head = text.text_projection
        self.head = nn.Identity() if head is None else head if isinstance(head, nn.Module) else Head(head)
        self.pooling, self.eos_id = pooling, eos_id
        self.mask: Tensor | None
        mask = None if text.attn_mask is None else causal_mask(context_length)
        self.register_buffer("mask", mask, persistent=False)

    def features(self, input_ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, W)"""
        length = input_ids.shape[1]
        x = self.token_embedding(input_ids) + self.position_embedding[:length]  # (B, L) -> (B, L, W)
        mask = None if self.mask is None else self.mask[:length, :length]
        return self.norm(self.transformer(x, attn_mask=mask))  # type: ignore[no-any-return]

    def project(self, x: Tensor, input_ids: Tensor) -> Tensor:
        """(B, L, W) -> (B, D)"""
        return self.head(pool(x, input_ids, self.pooling, self.eos_id))  # type: ignore[no-any-return]


class PreNormText(TextOfTokens):
    """The text transformers of CLIP and SigLIP in transformers."""

    def __init__(self, text: Any, head: nn.Module, pooling: Pooling, eos_id: int | None, mask: Tensor | None) -> None:
        super().__init__()
        self.embeddings, self.encoder, self.norm = text.embeddings, text.encoder, text.final_layer_norm
        self.head, self.pooling, self.eos_id = head, pooling, eos_id
        self.mask: Tensor | None
        self.register_buffer("mask", None if mask is None else mask[None, None], persistent=False)

    def features(self, input_ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, W)"""
        length = input_ids.shape[1]
        mask = None if self.mask is None else self.mask[..., :length, :length]
        x = self.encoder(inputs_embeds=self.embeddings(input_ids=input_ids), attention_mask=mask)[0]
        return self.norm(x)  # type: ignore[no-any-return]

    def project(self, x: Tensor, input_ids: Tensor) -> Tensor:
        """(B, L, W) -> (B, D)"""
        return self.head(pool(x, input_ids, self.pooling, self.eos_id))  # type: ignore[no-any-return]


class BertText(TextOfTokens):
    """Encoders of the BERT family (BERT, RoBERTa, XLM-R, Chinese-CLIP, AltCLIP); padding is hidden from attention."""

    def __init__(self, text: Any, head: nn.Module, pooling: Pooling, pad_id: int) -> None:
        super().__init__()
        self.embeddings, self.encoder = text.embeddings, text.encoder
        self.head, self.pooling, self.pad_id = head, pooling, pad_id

    def features(self, input_ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, W)"""
        x = self.embeddings(input_ids=input_ids)  # (B, L) -> (B, L, W)
        mask = padding_mask(input_ids, self.pad_id, x.dtype)
        return self.encoder(x, attention_mask=mask)[0]  # type: ignore[no-any-return]

    def project(self, x: Tensor, input_ids: Tensor) -> Tensor:
        """(B, L, W) -> (B, D)"""
        return self.head(pool(x, input_ids, self.pooling, self.pad_id))  # type: ignore[no-any-return]


class T5Text(TextOfTokens):
    """The encoder of (m)T5: positions are a bias on attention, computed by the first block and handed on."""

    def __init__(self, stack: Any, head: nn.Module, pad_id: int) -> None:
        super().__init__()
        self.embed_tokens, self.blocks, self.norm = stack.embed_tokens, stack.block, stack.final_layer_norm
        self.head, self.pad_id = head, pad_id

    def features(self, input_ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, W)"""
        x = self.embed_tokens(input_ids)  # (B, L) -> (B, L, W)
        mask = padding_mask(input_ids, self.pad_id, x.dtype)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        bias = None
        for block in self.blocks:
            x, bias = block(x, attention_mask=mask, position_bias=bias, cache_position=positions)[:2]
        return self.norm(x)  # type: ignore[no-any-return]

    def project(self, x: Tensor, input_ids: Tensor) -> Tensor:
        """(B, L, W) -> (B, D)"""
        return self.head(pool(x, input_ids, "mean", self.pad_id))  # type: ignore[no-any-return]
