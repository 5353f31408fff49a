"""Embedding tables in 8 and 4 bits, in standard operations: rows are looked up small and widened afterwards."""

from __future__ import annotations

import numpy as np

from clip_edge.export.quantize.graph import Graph, WeightLayer
from clip_edge.export.quantize.qdq import quantise_rows


def byte_table(graph: Graph, layer: WeightLayer) -> None:
    """One scale for each row: Gather int8 rows and their scales, then multiply."""
    rows, scales = quantise_rows(graph.array(layer.weight), 0, 127, layer.name)
    looked_up = _look_up(graph, layer, graph.add_constant(f"{layer.weight}_q", rows), "bytes")
    _scale(graph, layer, looked_up, scales)


def nibble_table(graph: Graph, layer: WeightLayer) -> None:
    """Two values in a byte, the first half of a row in the low bits: Gather bytes, split them, widen and scale.

    Gather has no 4-bit form in the standard, so the halves are taken apart with BitwiseAnd and BitShift.
    """
    rows, scales = quantise_rows(graph.array(layer.weight), 0, 7, layer.name)
    shifted = (rows + 8).astype(np.uint8)  # 1..15
    half = shifted.shape[1] // 2
    packed = shifted[:, :half] | (shifted[:, half:] << 4)
    looked_up = _look_up(graph, layer, graph.add_constant(f"{layer.weight}_q4", packed), "nibbles")
    mask = graph.add_constant("nibble_mask", np.uint8(15))
    four = graph.add_constant("nibble_shift", np.uint8(4))
    low = graph.add("BitwiseAnd", [looked_up, mask], f"{looked_up}_low")
    high = graph.add("BitShift", [looked_up, four], f"{looked_up}_high", direction="RIGHT")
    both = graph.add("Concat", [low, high], f"{looked_up}_both", axis=-1)
    widened = graph.add("Cast", [both], f"{looked_up}_float", to=1)
    centred = graph.add("Sub", [widened, graph.add_constant("nibble_centre", np.float32(8))], f"{looked_up}_centred")
    _scale(graph, layer, centred, scales, cast=False)


def _look_up(graph: Graph, layer: WeightLayer, table: str, kind: str) -> str:
    return graph.add("Gather", [table, layer.input], f"{layer.output}_{kind}", axis=0)


def _scale(graph: Graph, layer: WeightLayer, rows: str, scales: np.ndarray, *, cast: bool = True) -> None:
    """`rows` times the scale of each, as the layer's output; the layer's own node is left without users."""
    node = next(node for node in graph.nodes if node.name == layer.node)
    graph.nodes.remove(node)
    table = graph.add_constant(f"{layer.weight}_row_scale", scales[:, None])
    factors = graph.add("Gather", [table, layer.input], f"{layer.output}_row_scale", axis=0)
    widened = graph.add("Cast", [rows], f"{rows}_float", to=1) if cast else rows
    graph.add("Mul", [widened, factors], layer.output)
