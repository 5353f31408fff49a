"""The most that PyTorch does here."""

from __future__ import annotations

import pytest
import torch

from clip_edge.distill import ceilings
from clip_edge.distill.ceilings import measure_ceiling
from clip_edge.errors import UnavailableError


def test_a_ceiling_is_the_fastest_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ceilings.SIDES, "cpu", 256)
    monkeypatch.setitem(ceilings.COPIED_BYTES, "cpu", 1 << 20)
    monkeypatch.setattr(ceilings, "MOST_S", 0.2)
    before = torch.get_num_threads()
    try:
        found = measure_ceiling("cpu", 1)
    finally:
        torch.set_num_threads(before)
    assert set(found["matmul_flops_per_s"]) == {"float32", "bfloat16"}
    assert 1e8 < max(found["matmul_flops_per_s"].values()) < 1e14
    assert 1e8 < found["copy_bytes_per_s"] < 1e13


def test_a_gpu_that_is_not_there_is_said() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UnavailableError, match="PyTorch finds no GPU"):
        measure_ceiling("cuda", 1)
