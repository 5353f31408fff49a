"""fp16 for CPUs, browsers and phones: half the size; what could overflow or lose its small differences stays fp32."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto

from clip_edge.export.calibration import judged_rows
from clip_edge.export.half import NEAR_LARGEST, Rules, finite_masks, half_nodes, overflowing, to_half
from clip_edge.export.job import Job
from clip_edge.export.quantize.graph import Graph, weight_layers
from clip_edge.export.quantize.judge import Judge, choose_kept
from clip_edge.export.quantize.layers import Rounded, snr_db
from clip_edge.export.rewrite import fold_factors, fuse_gelu
from clip_edge.export.rows import Rows
from clip_edge.numerics import TOLERANCES
from clip_edge.quantization import SCHEMA, Layer, Quantization

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
# With the scaled factors of attention in fp16, ONNX Runtime 1.32 ended in a segmentation fault when it opened ViT-B/16
# with all its optimisations on; with them alone in fp32 it opens.
RULES = Rules(frozenset({*MOVES, *SIMPLE, *OTHERS}), largest=NEAR_LARGEST, scaled_factors=False)


def quantise(model: onnx.ModelProto, job: Job) -> tuple[onnx.ModelProto, Quantization]:
    """The fp16 form of an fp32 graph, with fp32 input and output, and its report."""
    prepared = Graph(model)
    fuse_gelu(prepared)
    fold_factors(prepared)
    finite_masks(prepared)
    base = prepared.finish()
    rows = judged_rows(job)
    large = overflowing(base, rows, job.console)
    judge = Judge(base, rows, TOLERANCES["fp16"].min_cosine)
    candidates = half_nodes(base, RULES, large)
    costly = choose_kept(
        candidates, lambda half: to_half(base, RULES, large | (set(candidates) - set(half))), judge, job.console
    )
    finished = to_half(base, RULES, large | costly.keys())
    reasons = {name: judge.why_kept(cost) for name, cost in costly.items()}
    return finished, Quantization(
        schema=SCHEMA,
        precision="fp16",
        scheme="weights and activations fp16; normalisations, softmax and what comes near 65504 fp32; fp32 in and out",
        calibration_images=0 if job.calibration is None else len(job.calibration.pixels),
        calibration_texts=0 if job.calibration is None else len(job.calibration.input_ids),
        min_cosine=round(float(judge.cosines(finished).min()), 6),
        layers=tuple(_report(base, large, reasons, rows[:SNR_ROWS])),
    )


def _report(model: onnx.ModelProto, large: Collection[str], costly: Mapping[str, str], rows: Rows) -> list[Layer]:
    graph = Graph(model)
    halves = _half_weights(to_half(model, RULES, {*large, *costly}))
    found = []
    layers = weight_layers(graph)
    rounded = [
        Rounded(layer, graph.array(layer.weight).astype(np.float16)) for layer in layers if layer.weight in halves
    ]
    ratios = snr_db(model, rounded, rows)
    for layer in layers:
        is_half = layer.weight in halves
        reason = "chosen" if is_half else _why(layer.node, large, costly)
        precision = "fp16" if is_half else "fp32"
        size_bytes = layer.size * (2 if is_half else 4)
        found.append(Layer(layer.name, layer.op, precision, reason, ratios.get(layer.name), size_bytes))
    return found


def _why(node: str, large: Collection[str], costly: Mapping[str, str]) -> str:
    if node in large:
        return "kept: its values come near the end of fp16's range"
    return costly.get(node, "kept: angles and lengths need fp32")


def _half_weights(model: onnx.ModelProto) -> set[str]:
    tensors = model.graph.initializer
    return {tensor.name.removesuffix("_as_fp16") for tensor in tensors if tensor.data_type == TensorProto.FLOAT16}
