"""The graphs of a bundle that are no towers: an encoder that runs once for a picture, and heads that read its map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "fp16", "fp8", "int8", "w8a8", "pal6", "int4", "pal4"]  # the rows of `numerics.TOLERANCES`
GraphName = Literal["encoder", "clip_head", "mask_decoder"]
GRAPHS: tuple[GraphName, ...] = ("encoder", "clip_head", "mask_decoder")
TensorType = Literal["float32", "int64", "int32", "uint8"]  # uint8: pixels 0..255, normalised by the graph
MASK_LOGITS = "mask_logits"  # the output that is judged by the masks it gives
PADDING, OUTSIDE, INSIDE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3  # what a point of a prompt is, as SAM numbers it


@dataclass(frozen=True)
class Parity:
    """How near an artefact came to the fp32 PyTorch model on the golden set, when it was made."""

    backend: str
    cases: int
    min_cosine: float
    mean_cosine: float
    max_abs: float
    tolerance: float


@dataclass(frozen=True)
class NamedTensor:
    """An input or output of a graph. `shape` has null where any size goes, such as the batch."""

    name: str
    dtype: TensorType
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Graph:
    """A graph with named inputs and outputs, in one precision for one target.

    `encoder` maps `pixel_values` to `feature_map`; `clip_head` maps that to `image_embeds` and `patch_embeds`
    (B, D, h, w), unit vectors at every place; `mask_decoder` maps `feature_map`, `points` (B, P, 2) as x and y in 0..1
    of the square input, and `labels` (B, P) (1 inside, 0 outside, 2 and 3 the corners of a box, -1 padding) to
    `mask_logits` (B, 3, M, M) and `iou` (B, 3).
    """

    graph: GraphName
    target: str
    precision: Precision
    path: str
    inputs: tuple[NamedTensor, ...]
    outputs: tuple[NamedTensor, ...]
    opset: int
    verification: Parity | None
    quantization: str | None = None  # path of the report on each layer's precision

    def __post_init__(self) -> None:
        for tensor in (*self.inputs, *self.outputs):
            if not tensor.shape or any(side is not None and side < 1 for side in tensor.shape):
                raise ValueError(f"`shape` of `{tensor.name}` must hold sizes above 0; found {list(tensor.shape)}")
