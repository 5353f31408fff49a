"""From batches on the CPU to what a training step takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from clip_edge.console import Console
from clip_edge.distill.data.loader import Batch
from clip_edge.distill.data.samples import Problem
from clip_edge.distill.features import FeatureBatch
from clip_edge.distill.models.spec import TextTowerSpec

AnyBatch = Batch | FeatureBatch
PROBLEMS_SHOWN = 5


def on_device(
    batches: Iterator[AnyBatch], device: torch.device, text: TextTowerSpec, eos_id: int
) -> Iterator[AnyBatch]:
    """The batches with padding cut off, on `device`, pictures in the memory layout that convolutions like best."""
    for batch in batches:
        columns: dict[str, Any] = {field.name: getattr(batch, field.name) for field in fields(batch)}
        columns["tokens"] = without_padding(batch.tokens, text, eos_id)
        yield replace(cast(Any, batch), **{name: _moved(column, device) for name, column in columns.items()})


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    return tensor.to(device, non_blocking=True, memory_format=layout)


def without_padding(tokens: Tensor, text: TextTowerSpec, eos_id: int) -> Tensor:
    """(B, L) -> (B, longest): columns that no row's sentence reaches, where the tower cannot see them anyway.

    That is so when padding is hidden or attention is causal, unless convolutions look across the end.
    """
    if text.mixer_kernel is not None or not (text.pad_mask or text.causal):
        return tokens
    is_eos = tokens == eos_id
    ends = torch.where(is_eos.any(1), is_eos.int().argmax(1), tokens.shape[1] - 1)  # the first EOS of each row
    return tokens[:, : int(ends.max()) + 1]


def reader_count(workers: int) -> int:
    """Processes that read pictures: `workers`, or with -1 the cores that the training process leaves, at most 8."""
    return workers if workers >= 0 else min(8, max(1, (os.cpu_count() or 1) - 1))


def tell_problems(console: Console) -> Callable[[Problem], None]:
    """Names the first samples that cannot be read, and then only counts, in powers of ten."""
    count = 0

    def tell(problem: Problem) -> None:
        nonlocal count
        count += 1
        if count <= PROBLEMS_SHOWN:
            console.warn(f"a sample is left out: {problem.key} in {problem.where}: {problem.reason}")
        elif str(count).rstrip("0") == "1":
            console.warn(f"{count} samples are left out so far; `clip-edge data check` names them all")

    return tell
