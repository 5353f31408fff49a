"""Explicit 8-bit quantisation: QuantizeLinear/DequantizeLinear pairs around chosen layers, in standard operations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from clip_edge.errors import ExportError
from clip_edge.export.quantize.graph import Graph, WeightLayer, weight_layers
from clip_edge.export.quantize.ranges import Range
from clip_edge.numerics import Doubles

BIAS_MAX = 2.0**30  # of an int32 bias: half the range, the other half is for the sum
FUSED = frozenset({"Clip", "Relu"})  # between a layer and its Q: the quantised range ends where they cut


@dataclass(frozen=True)
class Scheme:
    """How 8 bits are used. `outputs` are the operations whose result is quantised too, not only what goes in."""

    activation: Literal["uint8", "int8"]
    symmetric: bool  # of activations: zero point 0
    weight_max: int  # largest weight in steps; weights are always symmetric, one scale for each output channel
    float_bias: bool
    outputs: frozenset[str] = frozenset()


# TensorRT: symmetric int8 with zero point 0; its parser rejects int32 biases behind a DequantizeLinear.
TENSORRT = Scheme("int8", symmetric=True, weight_max=127, float_bias=True)


def insert_qdq(
    model: onnx.ModelProto,
    layers: Collection[str],
    ranges: Mapping[str, Range],
    scheme: Scheme,
    shifts: Mapping[str, Doubles] | None = None,
) -> onnx.ModelProto:
    """A copy of `model` in which the layers named (see `weight_layers`) compute on 8-bit inputs and weights.

    Args:
        layers: names of convolutions and matrix products; embedding tables are not among them.
        ranges: activation -> (low, high), for every value that `quantised_values` names.
        shifts: layer -> what 8 bits add to the mean of each of its outputs (C,); their biases take it back.

    Raises:
        ExportError: a weight is NaN or infinite.
    """
    graph = Graph(model)
    chosen = [layer for layer in weight_layers(graph) if layer.name in layers]
    scales = {value: _quantise_value(graph, value, ranges[value], scheme) for value in _values(graph, chosen, scheme)}
    for layer in chosen:
        if layer.op in scheme.outputs:
            _drop_activation(graph, layer.output, ranges)
        _quantise_weight(graph, layer, scales[layer.input], scheme, (shifts or {}).get(layer.name))
    return graph.finish()


def quantised_values(model: onnx.ModelProto, layers: Collection[str], scheme: Scheme) -> list[str]:
    """The activations that `insert_qdq` needs ranges for, in order."""
    graph = Graph(model)
    return _values(graph, [layer for layer in weight_layers(graph) if layer.name in layers], scheme)


def _values(graph: Graph, chosen: list[WeightLayer], scheme: Scheme) -> list[str]:
    users = graph.users()
    values: dict[str, None] = {}
    for layer in chosen:
        values[layer.input] = None
        if layer.op in scheme.outputs:
            values[_after_activation(layer.output, users)] = None
    return [value for value in values if value not in graph.outputs]  # what leaves the graph stays float


def _after_activation(value: str, users: Mapping[str, list[onnx.NodeProto]]) -> str:
    """The value behind a ReLU or clip that follows at once: runtimes fuse it with the layer."""
    following = users.get(value, [])
    if len(following) == 1 and following[0].op_type in FUSED:
        return str(following[0].output[0])
    return value


def _quantise_value(graph: Graph, value: str, span: Range, scheme: Scheme) -> float:
    """Put a Q/DQ pair behind `value`, for all its users; gives the scale."""
    dtype = np.uint8 if scheme.activation == "uint8" else np.int8
    smallest = np.iinfo(dtype).min
    low, high = min(0.0, span[0]), max(0.0, span[1])
    if scheme.symmetric:
        scale, zero = max(-low, high) / 127, 0
    else:
        scale = (high - low) / 255
        zero = int(np.clip(np.round(-low / scale), 0, 255)) + smallest if scale > 0 else smallest
    step = np.float32(scale) if np.float32(scale) > np.finfo(np.float32).tiny else np.float32(1)  # constant zero
    users = graph.users().get(value, [])
    names = [graph.add_constant(f"{value}_scale", np.asarray(step, np.float32))]
    names += [graph.add_constant(f"{value}_zero", np.asarray(zero, dtype))]
    graph.add("QuantizeLinear", [value, *names], f"{value}_q")
    graph.add("DequantizeLinear", [f"{value}_q", *names], f"{value}_dq")
    graph.replace_uses(value, f"{value}_dq", users)
    return float(step)


def _drop_activation(graph: Graph, value: str, ranges: Mapping[str, Range]) -> None:
    """Let the layer feed Q directly where the quantised range lies inside what the activation lets pass."""
    users = graph.users()
    after = _after_activation(value, users)
    if after == value or after in graph.outputs:  # what leaves the graph stays float
        return
    low, high = activation_bounds(graph, users[value][0])
    if low <= min(0.0, ranges[after][0]) and max(0.0, ranges[after][1]) <= high:
        graph.replace_uses(after, value, users[after])


def activation_bounds(graph: Graph, node: onnx.NodeProto) -> Range:
    """What a ReLU or clip lets pass."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    ends = [graph.array(name).item() if name in graph.constants else None for name in node.input[1:]]
    low, high = [*ends, None, None][:2]
    return (-np.inf if low is None else low), (np.inf if high is None else high)


def _quantise_weight(
    graph: Graph, layer: WeightLayer, input_scale: float, scheme: Scheme, shift: Doubles | None
) -> None:
    node = next(node for node in graph.nodes if node.name == layer.node)
    bias = None if layer.bias is None else graph.array(layer.bias).astype(np.float64)
    if bias is not None and shift is not None:
        bias = bias - shift
    floor = None
    if bias is not None and not scheme.float_bias and bias.ndim == 1:
        floor = np.abs(bias) / (input_scale * BIAS_MAX)  # a nearly dead channel: its bias must still fit
    rounded, scales = quantise_rows(graph.array(layer.weight), layer.axis, scheme.weight_max, layer.name, floor)
    prefix = f"{layer.weight}_{layer.node}"  # two layers with one weight may have other biases, and so other scales
    weight = [graph.add_constant(f"{prefix}_q", rounded), graph.add_constant(f"{prefix}_scale", scales)]
    weight += [graph.add_constant(f"{prefix}_zero", np.zeros(len(scales), np.int8))]
    node.input[1] = graph.add("DequantizeLinear", weight, f"{prefix}_dq", axis=layer.axis)
    if floor is None:
        if bias is not None and shift is not None:
            node.input[2] = graph.add_constant(f"{prefix}_bias", bias.astype(np.float32))
        return
    assert bias is not None
    steps = (scales.astype(np.float64) * input_scale).astype(np.float32)
    whole = np.round(bias / steps).astype(np.int32)
    parts = [graph.add_constant(f"{prefix}_bias_q", whole), graph.add_constant(f"{prefix}_bias_scale", steps)]
    parts += [graph.add_constant(f"{prefix}_bias_zero", np.zeros(len(steps), np.int32))]
    node.input[2] = graph.add("DequantizeLinear", parts, f"{prefix}_bias_dq", axis=0)


def quantise_rows(
    weight: np.ndarray, axis: int, largest: int, name: str, floor: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 with one scale for each index along `axis`; a channel of zeros gets the scale 1.

    Args:
        floor: the smallest scale of each channel, where a bias needs it.

    Returns:
        The weight in int8 and its scales (C,) float32.

    Raises:
        ExportError: the weight is NaN or infinite.
    """
    refuse_infinite(weight, name)
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = np.abs(weight).max(others).astype(np.float64) / largest
    scales = scales if floor is None else np.maximum(scales, floor)
    scales = np.where(scales > np.finfo(np.float32).tiny, scales, 1.0).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    rounded = np.clip(np.round(weight / scales.reshape(shape)), -largest, largest)
    return rounded.astype(np.int8), scales


def refuse_infinite(weight: np.ndarray, name: str) -> None:
    """Rounding would turn NaN and infinity into plain numbers, and the damage could no longer be seen."""
    if not np.isfinite(weight).all():
        raise ExportError(
            f"the weight of {name} holds NaN or infinity", hint="train again, or export an earlier checkpoint"
        )
