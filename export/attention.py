"""Attention in as few passes over memory as ONNX's standard operations allow, for tracing only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What a mask adds to a logit that must not count. exp(-60) is 1e-26 of a neighbour: nothing, in fp32. With -1e4 ONNX
# Runtime's exp() ends in subnormal numbers, on which x86 takes ten times as long: a quarter of an int8 text tower.
HIDDEN = -60.0

_attend = F.scaled_dot_product_attention
_forward = nn.MultiheadAttention.forward


@contextmanager
def plain_attention() -> Iterator[None]:
    """Inside, attention is traced in its plain form: one product for q, k and v, one transposition, no shapes.

    torch's own export of `scaled_dot_product_attention` scales both factors and turns k over three reshapes whose
    shapes are computed at run time; that of `nn.MultiheadAttention` transposes eight times. Forms of attention that
    are not self-attention with a float mask stay as they are.
    """
    F.scaled_dot_product_attention = _plain_attend
    nn.MultiheadAttention.forward = _plain_forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = _attend
        nn.MultiheadAttention.forward = _forward  # type: ignore[method-assign]


def _plain_attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """(B, H, L, d) three times -> (B, H, L, d), as Vaswani et al. 2017, equation 1."""
    if dropout_p or is_causal or enable_gqa:
        return _attend(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)  # (B, H, L, d) @ (B, H, d, L) -> (B, H, L, L)
    if attn_mask is not None:
        hidden = attn_mask if attn_mask.is_floating_point() else (~attn_mask).to(scores.dtype) * HIDDEN
        scores = scores + hidden.clamp(min=HIDDEN)
    return scores.softmax(-1) @ value


def _plain_forward(
    self: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """(B, L, W) -> (B, L, W), or (L, B, W) where the batch is not first."""
    mask = options.get("attn_mask")
    rest = [given for name, given in options.items() if name not in ("need_weights", "attn_mask")]
    known = not args and not any(given is not None and given is not False for given in rest)
    own = query is key is value and query.ndim == 3 and self._qkv_same_embed_dim and self.bias_k is None
    plain = not options.get("need_weights", True) and not self.add_zero_attn and (mask is None or mask.ndim == 2)
    if not (known and own and plain):
        return _forward(self, query, key, value, *args, **options)
    x = query if self.batch_first else query.transpose(0, 1)
    qkv = torch.unflatten(F.linear(x, self.in_proj_weight, self.in_proj_bias), -1, (3, self.num_heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, L, 3, H, d) -> three of (B, H, L, d)
    mixed = _plain_attend(q, k, v, mask).transpose(1, 2).flatten(2)
    found: Tensor = self.out_proj(mixed)
    return (found if self.batch_first else found.transpose(0, 1)), None
