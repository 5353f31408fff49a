"""Which precision a device gets."""

from __future__ import annotations

import pytest
import torch

from clip_edge.distill import precision
from clip_edge.errors import ConfigError

CPU = torch.device("cpu")


def test_a_cpu_gets_fp32_unless_asked() -> None:
    assert precision.choose("auto", CPU).dtype is torch.float32
    assert precision.choose("bf16", CPU).dtype is torch.bfloat16


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="`precision = fp16` needs a CUDA device"):
        precision.choose("fp16", CPU)


def test_the_towers_run_in_the_precision_and_weights_stay() -> None:
    tower = torch.nn.Linear(4, 4)
    with precision.choose("bf16", CPU).autocast():
        assert tower(torch.zeros(1, 4)).dtype is torch.bfloat16
    with precision.choose("fp32", CPU).autocast():
        assert tower(torch.zeros(1, 4)).dtype is torch.float32
    assert tower.weight.dtype is torch.float32


def test_only_fp16_scales_the_loss() -> None:
    assert not precision.choose("bf16", CPU).scaler().is_enabled()
    loss = torch.tensor(2.0)
    assert precision.choose("fp32", CPU).scaler().scale(loss) is loss
