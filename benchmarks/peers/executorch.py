"""ExecuTorch with the XNNPACK delegate: open_clip's model, exported for the one batch size that is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clip_edge.benchmarks.peers.job import Opened, PeerJob, use_cores
from clip_edge.benchmarks.peers.open_clip import open_model


def open_peer(job: PeerJob) -> Opened:
    """Export, lower, write the program, and run it in ExecuTorch's own runtime."""
    use_cores(job.threads)  # its thread pool takes every core that it may
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    model, prepare = open_model(job)
    tower = _Tower(model, job.tower)
    items = job.items()
    example = prepare([items[i % len(items)] for i in range(job.batch)])
    with torch.no_grad():
        program = torch.export.export(tower, (example,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    file = Path(job.work) / "model.pte"
    file.write_bytes(lowered.buffer)
    method = Runtime.get().load_program(file).load_method("forward")

    def encode(batch: Any) -> np.ndarray:
        return np.array(method.execute([batch])[0].numpy())

    return Opened(prepare, encode, file.stat().st_size, ("executorch", "torch", "open_clip_torch"))


def _Tower(model: Any, name: str) -> Any:  # noqa: N802  # a class that needs torch, made where torch is there
    import torch

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            encode = self.model.encode_image if name == "image" else self.model.encode_text
            return encode(batch, normalize=True)  # type: ignore[no-any-return]

    return Tower().eval()
