"""One open session for every mix of weights in two precisions: nothing is built, stored or opened to judge another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from clip_edge.export.quantize.graph import Graph, WeightLayer
from clip_edge.export.quantize.ranges import open_graph
from clip_edge.export.rows import Rows
from clip_edge.numerics import Floats


@dataclass(frozen=True)
class Forms:
    """A layer's weight as each precision gives it back in float, both of the weight's shape."""

    low: Floats
    high: Floats


class Mixture:
    """An fp32 graph whose layers read their weights from inputs, so that one session computes every choice.

    Right where only weights are rounded: what a DequantizeLinear gives is an fp32 weight like any other.
    """

    def __init__(self, model: onnx.ModelProto, layers: Collection[WeightLayer], forms: Mapping[str, Forms]) -> None:
        """`forms` by name for some of `layers`; the others keep their fp32 weights."""
        graph = Graph(model)
        nodes = {node.name: node for node in graph.nodes}
        self.forms = forms
        for layer in (layer for layer in layers if layer.name in forms):
            node = nodes[layer.node]
            node.input[list(node.input).index(layer.weight)] = _input(layer.name)
            shape = forms[layer.name].low.shape
            described = onnx.helper.make_tensor_value_info(_input(layer.name), onnx.TensorProto.FLOAT, shape)
            graph.model.graph.input.append(described)
        self.session = open_graph(graph.finish())

    def choose(self, chosen: Collection[str]) -> Callable[[Rows], list[Floats]]:
        """What the graph computes with the layers `chosen` in the lower precision, the others in the higher one."""
        weights = {_input(name): form.low if name in chosen else form.high for name, form in self.forms.items()}

        def embed(rows: Rows) -> list[Floats]:
            parts = [self.session.run(None, part | weights) for part in rows.batches()]
            return [np.concatenate(values) for values in zip(*parts, strict=True)]

        return embed


def _input(layer: str) -> str:
    return f"weight of {layer}"
