"""What PyTorch made of a few golden pictures between the graphs for segmentation: maps, prompts and masks."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy

from clip_edge.bundle import Manifest
from clip_edge.errors import BundleError
from clip_edge.graphs import NamedTensor

GOLDEN_GRAPHS = "golden_graphs.safetensors"
PIXELS = "pixel_values"  # not stored: the first pictures of the golden set
PICTURE = "image"  # the same before normalising, as Core ML takes pictures


@dataclass(frozen=True)
class GraphGolden:
    """Every input and output of the graphs by name, for the first K pictures of the golden set; batch first."""

    tensors: dict[str, np.ndarray]

    @property
    def cases(self) -> int:
        """K."""
        return len(self.tensors["feature_map"])

    def to_bytes(self) -> bytes:
        """The set as a safetensors file: the same values give the same bytes."""
        return safetensors.numpy.save({name: np.ascontiguousarray(self.tensors[name]) for name in sorted(self.tensors)})


def read_graph_golden(data: bytes, manifest: Manifest, where: Path) -> GraphGolden:
    """The references in a safetensors file, which must be those of the graphs in the manifest.

    Raises:
        BundleError: no safetensors, or a tensor is missing, unknown, of another type or shape, or not finite.
    """
    fail = functools.partial(BundleError, where=where, hint="export the model again")
    try:
        found = safetensors.numpy.load(data)
    except Exception as problem:  # the parser raises its own error, KeyError for unknown types and ValueError
        raise fail(f"not a safetensors file: {problem}") from problem
    wanted = {
        tensor.name: tensor
        for graph in manifest.graphs
        for tensor in (*graph.inputs, *graph.outputs)
        if tensor.name not in (PIXELS, PICTURE)
    }
    for name in wanted.keys() ^ found.keys():
        raise fail(f"{'missing' if name in wanted else 'unknown'} tensor: `{name}`")
    counts = {array.shape[:1] for array in found.values()}
    if len(counts) != 1 or () in counts or (0,) in counts:
        raise fail("the tensors must hold the same number of pictures, and at least one")
    for name, tensor in wanted.items():
        if not _fits(found[name], tensor):
            raise fail(
                f"`{name}` must be {tensor.dtype} of shape {list(tensor.shape)}; "
                f"found {found[name].dtype} {list(found[name].shape)}"
            )
        if not np.isfinite(found[name]).all():
            raise fail(f"`{name}` is not finite")
    return GraphGolden(found)


def _fits(found: np.ndarray, wanted: NamedTensor) -> bool:
    """Whole numbers may be wider than the graph takes; the batch is that of the references."""
    return (
        (found.dtype == np.dtype(wanted.dtype) or (found.dtype == np.int64 and wanted.dtype == "int32"))
        and len(found.shape) == len(wanted.shape)
        and all(want in (None, have) for have, want in zip(found.shape[1:], wanted.shape[1:], strict=True))
    )
