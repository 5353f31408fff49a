"""What a lower precision does to each layer by itself: the noise of its output, and how far its mean moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from clip_edge.export.quantize.graph import Graph, WeightLayer
from clip_edge.export.quantize.ranges import Range, open_graph
from clip_edge.export.rows import Rows
from clip_edge.numerics import Doubles

LOSSLESS_DB = 200.0  # no error at all
AT_ONCE = 16_000_000  # weights in one pass: they are held several times, in fp32


@dataclass(frozen=True)
class Rounded:
    """A layer as it will compute: its weight rounded and back in float, and the range its input is rounded in."""

    layer: WeightLayer
    weight: np.ndarray
    span: Range | None = None  # None: the input stays float


@dataclass(frozen=True)
class Loss:
    """What a layer loses when it alone is rounded.

    `shift` is the mean error of each output channel, (C,), None where no bias could take it; `signal` and `noise` are
    mean squares of its fp32 output and of its error.
    """

    signal: float
    noise: float
    shift: Doubles | None

    def snr_db(self, *, corrected: bool = False) -> float:
        """The signal-to-noise ratio in decibels. `corrected`: after the bias has taken the shift."""
        taken = float(np.square(self.shift).mean()) if corrected and self.shift is not None else 0.0
        noise = self.noise - taken
        if noise <= 0:
            return LOSSLESS_DB
        return round(10 * float(np.log10(max(self.signal, 1e-30) / noise)), 2)


def losses(model: onnx.ModelProto, layers: Sequence[Rounded], rows: Rows) -> dict[str, Loss]:
    """Layer -> what it loses, measured on `rows`.

    Each layer gets a rounded twin that reads the same fp32 input, and many are measured in one pass: as many as their
    weights leave memory for.
    """
    found: dict[str, Loss] = {}
    part: list[Rounded] = []
    for index, rounded in enumerate(layers):
        part.append(rounded)
        if index + 1 == len(layers) or sum(one.weight.size for one in part) > AT_ONCE:
            found |= _losses(model, part, rows)
            part = []
    return found


def _losses(model: onnx.ModelProto, layers: Sequence[Rounded], rows: Rows) -> dict[str, Loss]:
    graph = Graph(model)
    nodes = {node.name: node for node in graph.nodes}
    figures = [_twin(graph, nodes[one.layer.node], one, f"twin_{index}") for index, one in enumerate(layers)]
    outputs = [name for names in figures for name in names]
    del graph.model.graph.output[:]
    graph.model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    session = open_graph(graph.finish())
    sums: dict[str, Doubles] = dict.fromkeys(outputs, np.zeros(1))
    for batch in rows.batches():
        count = len(next(iter(batch.values())))
        for name, value in zip(outputs, session.run(outputs, batch), strict=True):
            sums[name] = sums[name] + count * value.astype(np.float64)
    means: dict[str, Doubles] = {name: total / len(rows) for name, total in sums.items()}
    found = {}
    for rounded, (signal, noise, *shift) in zip(layers, figures, strict=True):
        found[rounded.layer.name] = Loss(means[signal].item(), means[noise].item(), means[shift[0]] if shift else None)
    return found


def snr_db(model: onnx.ModelProto, layers: Sequence[Rounded], rows: Rows) -> dict[str, float]:
    """Layer -> the signal-to-noise ratio of its output, in decibels."""
    return {name: loss.snr_db() for name, loss in losses(model, layers, rows).items()}


def _twin(graph: Graph, node: onnx.NodeProto, rounded: Rounded, prefix: str) -> list[str]:
    """Append the twin; gives the names of its signal, its noise, and, where a bias can take it, its shift."""
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
    figures = [
        _mean_square(graph, layer.output, f"{prefix}_signal"),
        _mean_square(graph, difference, f"{prefix}_noise"),
    ]
    if layer.bias is not None and graph.constants[layer.bias].dims == [rounded.weight.shape[layer.axis]]:
        axes = [0, *range(2, rounded.weight.ndim)]  # (B, C, H, W) of a convolution, (B * N, C) of a Gemm
        names = [difference, graph.add_constant("axes_" + "_".join(map(str, axes)), np.array(axes, np.int64))]
        figures.append(graph.add("ReduceMean", names, f"{prefix}_shift", keepdims=0))
    return figures


def _mean_square(graph: Graph, value: str, name: str) -> str:
    return graph.add("ReduceMean", [graph.add("Mul", [value, value], f"{name}_squares")], name, keepdims=0)


def _round_input(graph: Graph, value: str, span: Range, prefix: str) -> str:
    scale = (span[1] - span[0]) / 255 or 1.0
    names = [graph.add_constant(f"{prefix}_scale", np.float32(scale))]
    names += [graph.add_constant(f"{prefix}_zero", np.uint8(np.clip(np.round(-span[0] / scale), 0, 255)))]
    graph.add("QuantizeLinear", [value, *names], f"{prefix}_q")
    return graph.add("DequantizeLinear", [f"{prefix}_q", *names], f"{prefix}_dq")
