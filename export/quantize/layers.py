"""What a lower precision does to each layer by itself: the signal-to-noise ratio of its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from clip_edge.export.quantize.graph import Graph, WeightLayer
from clip_edge.export.quantize.ranges import Range, open_graph
from clip_edge.export.rows import Rows

LOSSLESS_DB = 200.0  # no error at all


@dataclass(frozen=True)
class Rounded:
    """A layer as it will compute: its weight rounded and back in float, and the range its input is rounded in."""

    layer: WeightLayer
    weight: np.ndarray
    span: Range | None = None  # None: the input stays float


def snr_db(model: onnx.ModelProto, layers: Sequence[Rounded], rows: Rows) -> dict[str, float]:
    """Layer -> power of its fp32 output over the power of its error, when it alone is rounded, in decibels.

    All layers are measured in one pass: each gets a rounded twin that reads the same fp32 input.
    """
    graph = Graph(model)
    nodes = {node.name: node for node in graph.nodes}
    outputs: list[str] = []
    for index, rounded in enumerate(layers):
        outputs += _twin(graph, nodes[rounded.layer.node], rounded, f"twin_{index}")
    twinned = graph.model
    del twinned.graph.node[:], twinned.graph.initializer[:]
    twinned.graph.node.extend(graph.nodes)
    twinned.graph.initializer.extend(graph.constants.values())
    session = open_graph(twinned, outputs)
    power = np.zeros(len(outputs))
    for part in rows.batches():
        power += [float(value) for value in session.run(outputs, part)]
    ratios = zip(layers, power[::2], power[1::2], strict=True)
    return {rounded.layer.name: _decibels(signal, noise) for rounded, signal, noise in ratios}


def _decibels(signal: float, noise: float) -> float:
    if noise <= 0:
        return LOSSLESS_DB
    return round(10 * float(np.log10(max(signal, 1e-30) / noise)), 2)


def _twin(graph: Graph, node: onnx.NodeProto, rounded: Rounded, prefix: str) -> list[str]:
    """Append the twin; gives the names of two scalars: the power of the output and of the error."""
    layer = rounded.layer
    source = layer.input if rounded.span is None else _round_input(graph, layer.input, rounded.span, prefix)
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    twin.name, twin.output[0] = prefix, f"{prefix}_out"
    graph.add_constant(f"{prefix}_weight", rounded.weight.astype(np.float32))
    for index, name in enumerate(twin.input):
        twin.input[index] = {layer.input: source, layer.weight: f"{prefix}_weight"}.get(name, name)
    graph.nodes.append(twin)
    difference = graph.add("Sub", [f"{prefix}_out", layer.output], f"{prefix}_error")
    signal = graph.add("ReduceSumSquare", [layer.output], f"{prefix}_signal", keepdims=0)
    noise = graph.add("ReduceSumSquare", [difference], f"{prefix}_noise", keepdims=0)
    return [signal, noise]


def _round_input(graph: Graph, value: str, span: Range, prefix: str) -> str:
    scale = (span[1] - span[0]) / 255 or 1.0
    names = [graph.add_constant(f"{prefix}_scale", np.float32(scale))]
    names += [graph.add_constant(f"{prefix}_zero", np.uint8(np.clip(np.round(-span[0] / scale), 0, 255)))]
    graph.add("QuantizeLinear", [value, *names], f"{prefix}_q")
    return graph.add("DequantizeLinear", [f"{prefix}_q", *names], f"{prefix}_dq")
