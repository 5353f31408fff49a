"""Mixed precision: where the towers run in 16 bits, and the loss scaling that fp16 needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from clip_edge.errors import ConfigError

PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The type that the towers compute in; weights, embeddings and losses stay in fp32."""

    device_type: str
    dtype: torch.dtype

    def autocast(self) -> torch.autocast:
        """The context in which the towers run."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype is not torch.float32)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling: at work with fp16 only, transparent otherwise."""
        return torch.amp.GradScaler(self.device_type, enabled=self.dtype is torch.float16)


def choose(name: str, device: torch.device) -> Precision:
    """The precision called `name` on `device`; "auto" is bf16 on CUDA devices that have it, fp32 elsewhere.

    Raises:
        ConfigError: fp16 on a CPU (its products overflow and are slow), or bf16 on a device without it.
    """
    on_cuda = device.type == "cuda"
    if name == "auto":
        name = "bf16" if on_cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if name == "fp16" and not on_cuda:
        raise ConfigError("`precision = fp16` needs a CUDA device", hint="use bf16, fp32 or auto on a CPU")
    if name == "bf16" and on_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError("this CUDA device has no bf16", hint="use --set precision=fp16, or auto")
    return Precision(device.type, DTYPES[name])
