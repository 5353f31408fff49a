"""An ONNX graph that can be asked and edited: who makes a value, who uses it, which layers hold weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper

Kind = Literal["convolution", "depthwise", "grouped", "linear", "embedding"]
_GENERATED = re.compile(r"(val_\d+|node_|n\d)")  # names that torch's exporter makes up

SMALL = 1024  # values: what shapes are computed from; of a larger constant its own shape is enough


class Graph:
    """A model to edit: change `nodes` and constants, then `finish`.

    Nodes are copies. Weights are the model's own, which are large: a constant is replaced, never changed in place.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = _without_constants(model)
        self.nodes: list[onnx.NodeProto] = list(self.model.graph.node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for index, node in enumerate(self.nodes):
            node.name = node.name or f"node_{index}"

    @property
    def outputs(self) -> list[str]:
        """The names of the values that leave the graph."""
        return [str(value.name) for value in self.model.graph.output]

    def makers(self) -> dict[str, onnx.NodeProto]:
        """Value -> the node that makes it."""
        return {value: node for node in self.nodes for value in node.output if value}

    def users(self) -> dict[str, list[onnx.NodeProto]]:
        """Value -> the nodes that use it, in order, each once."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(name for name in node.input if name):
                found.setdefault(value, []).append(node)
        return found

    def array(self, name: str) -> np.ndarray:
        """The value of a constant."""
        array: np.ndarray = numpy_helper.to_array(self.constants[name])
        return array

    def add_constant(self, name: str, array: np.ndarray | np.generic) -> str:
        """Store an array under `name`, or find that the same is there; gives the name."""
        tensor = numpy_helper.from_array(np.array(array, order="C"), name)
        self.add_tensor(tensor)
        return name

    def add_tensor(self, tensor: onnx.TensorProto) -> None:
        """Store a constant of a type that NumPy has not."""
        known = self.constants.get(tensor.name)
        if known is not None and known.SerializeToString(deterministic=True) != tensor.SerializeToString(
            deterministic=True
        ):
            raise ValueError(f"two different constants are called `{tensor.name}`")
        self.constants[tensor.name] = tensor

    def change_constant(self, node: onnx.NodeProto, place: int, array: np.ndarray) -> None:
        """Give one node another constant; it keeps its name unless other nodes read it too."""
        name = node.input[place]
        if sum(list(other.input).count(name) for other in self.nodes) > 1:
            name = f"{name}_{node.name}"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name)
        node.input[place] = name

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node; `finish` puts it where it belongs. Gives the output's name."""
        self.nodes.append(onnx.helper.make_node(op, list(inputs), [output], name=f"{output}_{op}", **attributes))
        return output

    def replace_uses(self, value: str, by: str, nodes: Iterable[onnx.NodeProto]) -> None:
        """Let `nodes` read `by` instead of `value`."""
        for node in nodes:
            for index, name in enumerate(node.input):
                if name == value:
                    node.input[index] = by

    def finish(self, opset: int | None = None) -> onnx.ModelProto:
        """The edited model: nodes sorted, stable among those that could swap; constants that nobody reads left out."""
        ordered = self._sorted()
        used = {name for node in ordered for name in node.input}
        finished = _without_constants(self.model, ordered)
        finished.graph.initializer.extend(tensor for name, tensor in self.constants.items() if name in used)
        if opset is not None:
            finished.opset_import[0].version = opset
        return finished

    def _sorted(self) -> list[onnx.NodeProto]:
        """Depth first from the outputs, inputs in order: nodes that lead nowhere are dropped on the way."""
        makers = self.makers()
        done: set[str] = set()
        ordered: list[onnx.NodeProto] = []
        stack: list[tuple[onnx.NodeProto, bool]] = [
            (makers[value.name], False) for value in reversed(self.model.graph.output) if value.name in makers
        ]
        while stack:
            node, visited = stack.pop()
            if visited:
                ordered.append(node)
                continue
            if node.output[0] in done:
                continue
            done.add(node.output[0])
            stack.append((node, True))
            stack += [(makers[name], False) for name in reversed(node.input) if name in makers]
        return ordered


def value_infos(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Type and shape of every input, of what nodes make, and of every output, without a copy of the weights.

    Raises:
        onnx.shape_inference.InferenceError: the graph contradicts itself.
    """
    shapes = _without_constants(model)
    large = set()
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= SMALL:
            shapes.graph.initializer.append(tensor)
        else:
            large.add(tensor.name)
            shapes.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    inferred = onnx.shape_inference.infer_shapes(shapes, strict_mode=True, data_prop=True).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    return [value for value in values if value.name not in large]


def _without_constants(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    """A copy without weights, with other `nodes` if they are given."""
    copied = onnx.ModelProto(
        ir_version=model.ir_version, producer_name=model.producer_name, producer_version=model.producer_version
    )
    copied.opset_import.extend(model.opset_import)
    copied.graph.name = model.graph.name
    copied.graph.input.extend(model.graph.input)
    copied.graph.output.extend(model.graph.output)
    copied.graph.node.extend(model.graph.node if nodes is None else nodes)
    return copied


@dataclass(frozen=True)
class WeightLayer:
    """A node with a constant weight. `axis` of the weight counts output channels (rows, for an embedding table).

    `grouped` convolutions have several channels in or out for each group: runtimes are slow at them in 8 bits.
    """

    name: str
    node: str
    op: str
    kind: Kind
    input: str
    weight: str
    bias: str | None
    output: str
    axis: int
    size: int  # weights that it has


def weight_layers(graph: Graph) -> list[WeightLayer]:
    """Every convolution, matrix product and embedding table of the graph, in order."""
    users = graph.users()
    found = [layer for node in graph.nodes if (layer := _layer(graph, node, users)) is not None]
    names: dict[str, int] = {}
    for layer in found:
        names[layer.name] = names.get(layer.name, 0) + 1
    return [layer if names[layer.name] == 1 else _renamed(layer) for layer in found]


def _renamed(layer: WeightLayer) -> WeightLayer:
    """Layers that share a weight are told apart by their nodes."""
    return replace(layer, name=f"{layer.name} ({layer.node})")


def _layer(graph: Graph, node: onnx.NodeProto, users: dict[str, list[onnx.NodeProto]]) -> WeightLayer | None:
    place = {"Conv": 1, "Gemm": 1, "MatMul": 1, "Gather": 0}.get(node.op_type)
    if place is None or node.input[place] not in graph.constants:
        return None
    weight = graph.constants[node.input[place]]
    if weight.data_type != onnx.TensorProto.FLOAT or len(weight.dims) < 2:
        return None
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    kind: Kind = "linear"
    axis = 1
    if node.op_type == "Conv":
        groups = attributes.get("group", 1)
        depthwise = weight.dims[1] == 1 and weight.dims[0] == groups
        kind = "convolution" if groups == 1 else "depthwise" if depthwise else "grouped"
        axis = 0
    elif node.op_type == "Gather":
        if attributes.get("axis", 0) != 0 or len(weight.dims) != 2:
            return None
        kind, axis = "embedding", 0
    elif len(weight.dims) != 2 or attributes.get("transA", 0):
        return None
    elif attributes.get("transB", 0):
        axis = 0
    bias = node.input[2] if len(node.input) > 2 and node.input[2] in graph.constants else None
    if len(node.input) > 2 and node.input[2] and bias is None:
        return None  # a bias that is computed
    return WeightLayer(
        name=_name(graph, node, weight.name, users),
        node=node.name,
        op=node.op_type,
        kind=kind,
        input=node.input[1 - place],
        weight=weight.name,
        bias=bias,
        output=node.output[0],
        axis=axis,
        size=math.prod(weight.dims),
    )


def _name(graph: Graph, node: onnx.NodeProto, weight: str, users: dict[str, list[onnx.NodeProto]]) -> str:
    """The module's name: that of its weight, or of its bias where the weight was transposed."""
    if not _GENERATED.match(weight):
        return weight.removesuffix(".weight")
    if len(node.input) > 2 and not _GENERATED.match(node.input[2]):
        return str(node.input[2].removesuffix(".bias"))
    following = users.get(node.output[0], [])
    for name in (name for user in following if user.op_type == "Add" for name in user.input):
        if name in graph.constants and not _GENERATED.match(name):
            return str(name.removesuffix(".bias"))
    return str(node.name)
