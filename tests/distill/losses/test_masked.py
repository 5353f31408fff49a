"""Which words are hidden, and that nothing else is scored."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from clip_edge.distill.losses.masked import choose_masked, corrupt, masked_loss


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=5), ratio=st.floats(0.01, 0.99), seed=st.integers(0, 99)
)
def test_the_right_number_of_words_is_chosen_and_nothing_else(counts: list[int], ratio: float, seed: int) -> None:
    torch.manual_seed(seed)
    is_word = torch.stack([(torch.arange(14) >= 1) & (torch.arange(14) <= count) for count in counts])
    chosen = choose_masked(is_word, ratio)
    assert not (chosen & ~is_word).any()
    assert chosen.sum(1).tolist() == [min(n, max(1, int(torch.tensor(n * ratio).round()))) for n in counts]


def test_eight_in_ten_are_masked_one_replaced_one_kept() -> None:
    torch.manual_seed(0)
    ids = torch.full((200, 100), 5)
    read, is_masked = corrupt(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(10, 1000))
    assert float(is_masked.float().mean()) == pytest.approx(0.8, abs=0.01)
    assert float(((read != ids) & ~is_masked).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert float(((read == ids) & ~is_masked).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert int(read[read != ids].min()) >= 10


def test_words_that_were_not_chosen_stay() -> None:
    ids = torch.randint(10, 90, (8, 20))
    chosen = torch.rand(8, 20) < 0.3
    read, is_masked = corrupt(ids, chosen, torch.arange(100, 200))
    assert torch.equal(read[~chosen], ids[~chosen])
    assert not is_masked[~chosen].any()


def test_only_chosen_positions_are_scored_in_the_right_rows() -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 7, (3, 4))
    chosen = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    logits = torch.randn(3, 7)
    expected = F.cross_entropy(logits, torch.stack([ids[0, 1], ids[0, 3], ids[2, 0]]), reduction="none")
    found = masked_loss(logits, ids, chosen)
    assert torch.allclose(found, torch.stack([expected[0] + expected[1], torch.zeros(()), expected[2]]))


def test_no_words_at_all_is_no_loss_and_still_has_a_gradient() -> None:
    head = torch.nn.Linear(4, 7)
    chosen = torch.zeros(2, 5, dtype=torch.bool)
    masked_loss(head(torch.zeros(0, 4)), torch.zeros(2, 5, dtype=torch.int64), chosen).sum().backward()
    assert head.weight.grad is not None  # every process has the same gradients to average
    assert head.weight.grad.abs().sum() == 0
