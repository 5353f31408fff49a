"""AdamW, the learning-rate schedule, and the average of the weights (EMA)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from clip_edge.distill.settings import OptimizerSettings, ScheduleSettings

MAX_LOG_SCALE = math.log(100)  # Radford et al. 2021, section 2.5: a larger scale makes training unstable


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, lr_ratio: Callable[[str], float] = lambda name: 1.0
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; norms, biases and other 1-d parameters have no weight decay.

    `lr_ratio` says for the name of a parameter which part of the learning rate it gets.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(lr_ratio(name), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": [p for p in group if (p.ndim >= 2) == is_matrix], "weight_decay": decay, "lr_ratio": ratio}
            for ratio, group in groups.items()
            for is_matrix, decay in ((True, settings.weight_decay), (False, 0.0))
        ],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )


def lr_at(step: int, lr: float, steps: int, schedule: ScheduleSettings) -> float:
    """The learning rate of `step` (from 1): linear warm-up to `lr`, then half a cosine to `final_lr_ratio * lr`."""
    if step <= schedule.warmup_steps:
        return lr * step / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    final = lr * schedule.final_lr_ratio
    return final + (lr - final) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its part (`lr_ratio`, 1 where there is none) of the learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_ratio", 1.0)


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Scale the gradients down to a total norm of `max_norm` (0: leave them); returns the norm before."""
    return nn.utils.clip_grad_norm_(model.parameters(), max_norm or math.inf)


def clamp_logit_scale(model: nn.Module) -> None:
    """Keep every parameter called `logit_scale` (a logarithm) within 0 .. ln 100."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2] == "logit_scale":
                parameter.clamp_(0, MAX_LOG_SCALE)


def ema_decay(step: int, decay: float) -> float:
    """The decay of update number `step` (from 1): it starts low, so that the random start is soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


def ema_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` that is only ever averaged into: evaluation mode, no gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move `ema` towards `model`: e = decay e + (1 - decay) m for what is trained and for BatchNorm statistics."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    averages, currents = ema.state_dict(), model.state_dict()
    moving = [name for name, value in currents.items() if name in trained or value.is_floating_point()]
    moving = [name for name in moving if name not in frozen]
    average: Callable[[list[Tensor], list[Tensor], None], None] = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    average([averages[name] for name in moving], [currents[name] for name in moving], None)
    for name, value in currents.items():
        if not value.is_floating_point():
            averages[name].copy_(value)  # counters
