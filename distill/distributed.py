"""One process or many with the same result: who we are, gathering with gradient, averaging over processes.

There is no wrapper around the model. Each process computes the loss of its own rows against the global batch;
after the backward pass `average` makes the gradients those of one process with the whole batch. The same lines
serve plain steps, cached steps and frozen towers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clip_edge.errors import ConfigError, UnavailableError

BUCKET_ELEMENTS = 16 * 1024 * 1024  # 64 MB of fp32 in one message: large enough for full bandwidth


@dataclass(frozen=True)
class Processes:
    """This process among the ones that train together."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """The contiguous part of `count` things that belongs to this process; parts differ by one at most."""
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)


@contextmanager
def join(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that `torchrun` started (nccl on CUDA, else gloo), or be the only one.

    Args:
        device: "auto" (CUDA where there is one), "cpu" or "cuda".

    Raises:
        UnavailableError: CUDA is asked for and not there.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    here = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if here.type == "cuda":
        torch.cuda.set_device(here)
    if world_size == 1:
        yield Processes(0, 1, here)
        return
    dist.init_process_group("nccl" if here.type == "cuda" else "gloo", rank=rank, world_size=world_size)
    try:
        yield Processes(rank, world_size, here)
    finally:
        dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise ConfigError(f"`device` must be one of auto, cpu, cuda; found `{name}`")
    if local_rank >= torch.cuda.device_count():
        raise UnavailableError(
            f"this process needs CUDA device {local_rank}; found {torch.cuda.device_count()} on this machine",
            hint="start fewer processes, or train on the CPU with --set device=cpu",
        )
    return torch.device("cuda", local_rank)


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def gather(local: Tensor) -> Tensor:
    """The rows of every process in the order of their ranks, with gradient: (b, ...) -> (B, ...)."""
    if not dist.is_initialized():
        return local
    return cast(Tensor, _Gather.apply(local))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        ctx.rows = slice(dist.get_rank() * len(local), (dist.get_rank() + 1) * len(local))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        whole = grads[0].contiguous()
        dist.all_reduce(whole)  # every process's loss depends on our rows
        return whole[ctx.rows]


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, many tensors in one message."""
    if not dist.is_initialized():
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for tensor, mean in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
            tensor.detach().copy_(mean.view(tensor.shape))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[Sequence[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (bucket[0].dtype != tensor.dtype or sum(t.numel() for t in bucket) >= BUCKET_ELEMENTS):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def average_gradients(model: nn.Module) -> None:
    """Make every gradient of `model`, and its running BatchNorm statistics, the mean over the processes."""
    average(p.grad for p in model.parameters() if p.grad is not None)
    average(buffer for buffer in model.buffers() if buffer.is_floating_point())


def same_start(model: nn.Module) -> None:
    """Give every process the weights and buffers of the first one."""
    if dist.is_initialized():
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set in at least one process; every process must ask at the same step."""
    if not dist.is_initialized():
        return flag
    count = torch.tensor(float(flag), device=device)
    dist.all_reduce(count)
    return bool(count.item())


def synchronise_batchnorm(model: nn.Module, here: Processes) -> nn.Module:
    """`model` with BatchNorm statistics over the global batch, on CUDA with several processes.

    PyTorch has no such layer for CPUs: there each process normalises with its own rows.
    """
    if here.device.type != "cuda" or here.world_size == 1:
        return model
    from timm import layers  # its conversion knows timm's fused norm + activation layers

    convert: Callable[[nn.Module], nn.Module] = layers.convert_sync_batchnorm  # type: ignore[attr-defined]
    return convert(model)
