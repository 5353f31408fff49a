"""TensorRT-RTX on desktop GPUs from Turing to Blackwell: engines lie in the bundle, or `clip-edge build` makes them."""

from __future__ import annotations

from clip_edge.bundle import Artifact, Bundle
from clip_edge.runtime.backends import Options, Run
from clip_edge.runtime.tensorrt.tower import open_engine


def open_tower(bundle: Bundle, artifact: Artifact, options: Options) -> Run:
    """One tower as a function from its input array to (B, D) float32; exceptions as `open_engine`."""
    return open_engine("tensorrt-rtx", bundle, artifact, options)
