"""How much a student computes: multiplications with an addition, the unit in which model sizes are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clip_edge.distill.models.student import Student


@dataclass(frozen=True)
class Operations:
    """Multiply-adds of the convolutions and matrix products for one picture and for one sentence of full length."""

    image: int
    text: int


def count_operations(student: Student) -> Operations:
    """Run each tower once on nothing and count (PyTorch's counter, which gives two operations for a multiply-add)."""
    parameter = next(student.parameters())
    size, length = student.spec.image.size, student.spec.text.context_length
    return Operations(
        image=_count(student, student.encode_image, torch.zeros(1, 3, size, size, device=parameter.device)),
        text=_count(student, student.encode_text, torch.zeros(1, length, dtype=torch.long, device=parameter.device)),
    )


def _count(student: Student, tower: Callable[[Tensor], Tensor], sample: Tensor) -> int:
    mode = student.training
    student.eval()
    try:
        # The fused attention kernels of some devices are not counted; plain matrix products are.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            tower(sample)
    finally:
        student.train(mode)
    return int(counter.get_total_flops()) // 2
