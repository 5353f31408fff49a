"""clip-edge itself in a process of its own, as every peer has one: between the engines of ten rows small things such as
a tokenizer take longer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clip_edge.benchmarks.peers.job import CannotRunError, Opened, PeerJob
from clip_edge.errors import ClipEdgeError


def open_peer(job: PeerJob) -> Opened:
    """`variant` is the backend and the precision."""
    from clip_edge.runtime import load

    backend, precision = job.variant.split()
    try:
        model = load(job.bundle, backend, threads=job.threads, precision=precision, towers=[job.tower])
    except ClipEdgeError as problem:
        raise CannotRunError(problem.what) from problem
    embed = model.encode_images if job.tower == "image" else model.encode_texts

    def query(items: Sequence[Any]) -> Mapping[str, float]:
        embed(items, batch_size=job.batch)
        return model.timings

    return Opened(list, embed, 0, ("onnxruntime",), query)
