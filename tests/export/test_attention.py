"""Attention as it is traced: the same numbers as PyTorch, in few operations, without subnormal numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_edge.export.attention import HIDDEN, plain_attention
from clip_edge.export.onnx import trace
from clip_edge.export.quantize.ranges import open_graph
from clip_edge.export.targets import Declaration

LENGTH, WIDTH = 9, 32


class Own(nn.Module):
    """Self-attention by `nn.MultiheadAttention`, with or without a causal mask."""

    def __init__(self, *, batch_first: bool = True, masked: float | None = -torch.inf, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=batch_first, bias=bias)
        mask = None if masked is None else torch.full((LENGTH, LENGTH), masked).triu(1)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, W)"""
        found, _ = self.attention(x, x, x, need_weights=False, attn_mask=self.mask)
        return found  # type: ignore[no-any-return]


class Hidden(nn.Module):
    """`scaled_dot_product_attention` that hides the second half of the tokens, by floats or by booleans."""

    def __init__(self, *, booleans: bool) -> None:
        super().__init__()
        seen = torch.arange(LENGTH) < LENGTH // 2
        self.register_buffer("mask", seen[None] if booleans else (~seen[None]).float() * -1e4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) -> (B, 1, L, W)"""
        return F.scaled_dot_product_attention(x[:, None], 2 * x[:, None], x[:, None], attn_mask=self.mask)


def graph_of(module: nn.Module) -> onnx.ModelProto:
    with plain_attention():
        return trace(module.eval(), torch.randn(2, LENGTH, WIDTH), Declaration("x", "float32", "y", "attention"), 18)


@pytest.fixture(scope="module")
def causal() -> onnx.ModelProto:
    return graph_of(Own())


@pytest.mark.parametrize(
    "module",
    [
        Own(),
        Own(batch_first=False),
        Own(masked=None),
        Own(masked=-1e4, bias=False),
        Hidden(booleans=True),
        Hidden(booleans=False),
    ],
    ids=["causal", "batch second", "without mask", "finite mask", "booleans", "padding"],
)
def test_numbers_are_those_of_torch(module: nn.Module) -> None:
    """In fp64, so that only a real difference is one; sums in fp32 end differently on other processors."""
    x = torch.randn(3, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    if isinstance(module, Own) and not module.attention.batch_first:
        x = x[:LENGTH].repeat(3, 1, 1)  # its rows are steps, and the mask has nine
    with torch.inference_mode():
        expected = module.eval().double()(x)
        with plain_attention():
            torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(module(x), expected, rtol=0, atol=0)


def test_a_block_transposes_three_times(causal: onnx.ModelProto) -> None:
    """q, k and v together, k for its product, and back; torch's own export of this module has eight, and shapes."""
    counts = Counter(node.op_type for node in causal.graph.node)
    assert counts["Transpose"] == 3
    assert counts["Shape"] == 0
    assert counts["MatMul"] == 4


def test_nothing_in_it_is_subnormal(causal: onnx.ModelProto) -> None:
    """x86 takes some hundred cycles for each subnormal number; -1e4 left half of a causal tower's softmax so."""
    (softmax,) = [node.output[0] for node in causal.graph.node if node.op_type == "Softmax"]
    x = np.random.default_rng(0).normal(size=(2, LENGTH, WIDTH)).astype(np.float32)
    shares = open_graph(causal, [softmax]).run(None, {"x": x})[0]
    hidden = shares[..., np.triu(np.ones((LENGTH, LENGTH), bool), 1)]
    assert hidden.size
    assert np.finfo(np.float32).tiny <= hidden.min() <= hidden.max() < 1e-20


def test_the_mask_is_finite(causal: onnx.ModelProto) -> None:
    values = [onnx.numpy_helper.to_array(value) for value in causal.graph.initializer]
    assert min(value.min() for value in values if value.dtype == np.float32) == HIDDEN


@pytest.mark.parametrize(
    "options",
    [
        {"need_weights": True},
        {"need_weights": False, "key_padding_mask": torch.zeros(2, LENGTH).bool()},
        {"need_weights": False, "attn_mask": torch.zeros(8, LENGTH, LENGTH)},
    ],
)
def test_other_forms_give_the_same(options: dict[str, Any]) -> None:
    attention = Own().attention.eval().double()
    x, y = torch.randn(2, LENGTH, WIDTH).double(), torch.randn(2, LENGTH, WIDTH).double()
    with torch.inference_mode():
        for key in (x, y):
            expected = attention(x, key, key, **options)
            with plain_attention():
                found = attention(x, key, key, **options)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_torch_gets_its_own_back_after_an_error() -> None:
    before = F.scaled_dot_product_attention, nn.MultiheadAttention.forward
    with pytest.raises(KeyError), plain_attention():
        raise KeyError
    assert (F.scaled_dot_product_attention, nn.MultiheadAttention.forward) == before
