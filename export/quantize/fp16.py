"""fp16 for CPUs, browsers and phones: half the size; what could overflow or lose its small differences stays fp32."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto

from clip_edge.export.calibration import judged_rows
from clip_edge.export.job import Job
from clip_edge.export.quantize.graph import Graph, weight_layers
from clip_edge.export.quantize.judge import Judge
from clip_edge.export.quantize.layers import Rounded, snr_db
from clip_edge.export.quantize.ranges import observe
from clip_edge.export.rewrite import fold_factors, fuse_gelu
from clip_edge.quantization import SCHEMA, Layer, Quantization

LARGEST = 65504.0 / 4  # of an activation: what is measured is not the worst that will ever come
MASKED = -1e4  # in place of -inf and the like: exp() of it is 0 all the same, and no NaN comes of it
SNR_ROWS = 8

# What has an fp16 form that loses nothing but digits. Normalisations, softmax, sums of squares and divisions by them
# are not here: they stay in fp32.
MOVES = ("Concat", "Expand", "Flatten", "Gather", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose")
SIMPLE = (
    "Add",
    "AveragePool",
    "Clip",
    "Div",
    "Erf",
    "Gelu",
    "GlobalAveragePool",
    "HardSigmoid",
    "HardSwish",
    "MaxPool",
)
OTHERS = ("Conv", "Gemm", "MatMul", "MaxPool", "Mul", "Relu", "Sigmoid", "Sub", "Tanh", "Unsqueeze", "Where")
HALF = frozenset({*MOVES, *SIMPLE, *OTHERS})
SUMS = frozenset({"ReduceL2", "ReduceSumSquare", "LpNormalization"})  # the end of a tower: all behind it stays fp32


def quantise(model: onnx.ModelProto, job: Job) -> tuple[onnx.ModelProto, Quantization]:
    """The fp16 form of an fp32 graph, with fp32 input and output, and its report."""
    prepared = Graph(model)
    fuse_gelu(prepared)
    fold_factors(prepared)
    bound_masks(prepared)
    base = prepared.finish()
    rows = judged_rows(job)
    large = _overflowing(base, rows, job)
    finished = to_half(base, large)
    judge = Judge(base, rows)
    return finished, Quantization(
        schema=SCHEMA,
        precision="fp16",
        scheme="weights and activations fp16; normalisations, softmax and what comes near 65504 fp32; fp32 in and out",
        calibration_images=0 if job.calibration is None else len(job.calibration.pixels),
        calibration_texts=0 if job.calibration is None else len(job.calibration.input_ids),
        min_cosine=round(float(judge.cosines(finished).min()), 6),
        layers=tuple(_report(base, large, rows[:SNR_ROWS])),
    )


def bound_masks(graph: Graph) -> None:
    """Make what attention adds to hide a token finite in fp16; fp32 gives the same numbers with it."""
    for node in graph.nodes:
        for place, name in enumerate(node.input):
            if node.op_type in ("Add", "Where") and name in graph.constants:
                value = graph.array(name)
                if value.dtype == np.float32 and value.size and value.min() < -LARGEST:
                    graph.change_constant(node, place, np.maximum(value, MASKED))


def to_half(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A copy in which every node of `HALF` computes in fp16, except those named in `keep`, the last norm and node."""
    graph = Graph(model)
    kinds = _element_types(model)
    floats = {name for name, kind in kinds.items() if kind == TensorProto.FLOAT}
    floats |= {name for name, tensor in graph.constants.items() if tensor.data_type == TensorProto.FLOAT}
    kept = {*keep, *_behind_sums(graph), *_before_products(graph), graph.makers()[graph.output].name}
    half = [node for node in graph.nodes if _is_half(graph, node, floats) and node.name not in kept]
    half_names = {node.name for node in half}
    made_half = {value for node in half for value in node.output if value in floats}
    for node in list(graph.nodes):
        wanted = TensorProto.FLOAT16 if node.name in half_names else TensorProto.FLOAT
        for place, name in enumerate(node.input):
            if name in floats:
                node.input[place] = _as(graph, name, name in made_half, wanted)
    return graph.finish()


def _as(graph: Graph, name: str, is_half: bool, wanted: int) -> str:
    """The name under which a value, or a constant, is found in the type `wanted`."""
    if (wanted == TensorProto.FLOAT16) == is_half:
        return name
    if name in graph.constants:
        return graph.add_constant(f"{name}__half", graph.array(name).astype(np.float16))
    cast = f"{name}__{'half' if wanted == TensorProto.FLOAT16 else 'single'}"
    if not any(cast in node.output for node in graph.nodes):
        graph.add("Cast", [name], cast, to=wanted)
    return cast


def _is_half(graph: Graph, node: onnx.NodeProto, floats: Collection[str]) -> bool:
    if node.op_type not in HALF or node.output[0] not in floats:
        return False
    constants = [graph.array(name) for name in node.input if name in graph.constants and name in floats]
    return all(np.abs(value).max(initial=0) <= LARGEST for value in constants)


def _behind_sums(graph: Graph) -> set[str]:
    """The sums of squares that end a tower, and every node behind them."""
    reached: set[str] = set()
    found: set[str] = set()
    for node in graph.nodes:
        if node.op_type in SUMS or reached.intersection(node.input):
            found.add(node.name)
            reached.update(node.output)
    return found


def _before_products(graph: Graph) -> set[str]:
    """The scalings of a factor of a product, as attention has them.

    With them in fp16, ONNX Runtime 1.32 ended in a segmentation fault when it opened ViT-B/16 with all its
    optimisations on; with them alone in fp32 it opens.
    """
    users = graph.users()
    return {
        node.name
        for node in graph.nodes
        if node.op_type == "Mul"
        and any(name in graph.constants and graph.array(name).size == 1 for name in node.input)
        and any(user.op_type == "MatMul" for user in users.get(node.output[0], []))
    }


def _overflowing(model: onnx.ModelProto, rows: np.ndarray, job: Job) -> set[str]:
    """The nodes that read or make a value near the end of fp16's range."""
    kinds = _element_types(model)
    made = {value: node for node in model.graph.node for value in node.output if kinds.get(value) == TensorProto.FLOAT}
    seen = observe(model, list(made), rows, console=job.console)
    large = {name for name, values in seen.items() if max(-values.low, values.high) > LARGEST}
    return {node.name for node in model.graph.node if large.intersection([*node.input, *node.output])}


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Value -> element type."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _report(model: onnx.ModelProto, large: Collection[str], rows: np.ndarray) -> list[Layer]:
    graph = Graph(model)
    halves = _half_weights(to_half(model, large))
    found = []
    layers = weight_layers(graph)
    rounded = [
        Rounded(layer, graph.array(layer.weight).astype(np.float16)) for layer in layers if layer.weight in halves
    ]
    ratios = snr_db(model, rounded, rows)
    for layer in layers:
        is_half = layer.weight in halves
        reason = "chosen" if is_half else "kept: its values come near the end of fp16's range"
        size = int(np.prod(graph.constants[layer.weight].dims)) * (2 if is_half else 4)
        precision = "fp16" if is_half else "fp32"
        found.append(Layer(layer.name, layer.op, precision, reason, ratios.get(layer.name), size))
    return found


def _half_weights(model: onnx.ModelProto) -> set[str]:
    tensors = model.graph.initializer
    return {tensor.name.removesuffix("__half") for tensor in tensors if tensor.data_type == TensorProto.FLOAT16}
