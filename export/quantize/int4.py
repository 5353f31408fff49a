"""int4 weights for small downloads: blocks of 32 share a scale, in the standard's own DequantizeLinear (opset 21)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from clip_edge.export.calibration import judged_rows
from clip_edge.export.job import Job
from clip_edge.export.quantize.graph import Graph, WeightLayer, weight_layers
from clip_edge.export.quantize.judge import Judge, choose_kept
from clip_edge.export.quantize.layers import Rounded, snr_db
from clip_edge.export.quantize.mixture import Forms, Mixture
from clip_edge.export.quantize.qdq import quantise_rows, refuse_infinite
from clip_edge.export.quantize.tables import byte_table, nibble_table
from clip_edge.export.rewrite import fold_factors, fold_transposes, fuse_gelu
from clip_edge.export.rows import Rows
from clip_edge.numerics import TOLERANCES
from clip_edge.quantization import SCHEMA, Layer, Quantization

OPSET = 21  # the first whose DequantizeLinear reads 4 bits in blocks
BLOCK = 32
SHRINK = np.linspace(1.0, 0.7, 13)  # scales tried for a block, as shares of the one that clips nothing
AT_ONCE = 1024  # blocks that are searched together: what a core's cache holds
SNR_ROWS = 8
LEAST_ROWS = 16  # of a table: a shorter one has nothing to gain


def quantise(model: onnx.ModelProto, job: Job) -> tuple[onnx.ModelProto, Quantization]:
    """The int4 form of an fp32 graph, and its report. Activations stay fp32; calibration data only helps to judge."""
    prepared = Graph(model)
    fold_transposes(prepared)
    fuse_gelu(prepared)
    fold_factors(prepared)
    base = prepared.finish(OPSET)
    graph = Graph(base)
    layers = weight_layers(graph)
    candidates = [layer.name for layer in layers if _fits(graph, layer)]
    judge = Judge(base, judged_rows(job), TOLERANCES["int4"].min_cosine)
    forms = {
        layer.name: Forms(_rounded(graph, layer), _widened(graph, layer))
        for layer in layers
        if _has_bytes(graph, layer)
    }
    mixture = Mixture(base, layers, forms)
    spare = judge.scores(mixture.choose([])).min() < judge.goal  # 8 bits are too few for what is kept
    if spare:
        weights = {layer.name: graph.array(layer.weight) for layer in layers if layer.name in candidates}
        forms = {name: replace(form, high=weights.get(name, form.high)) for name, form in forms.items()}
        mixture = Mixture(base, layers, forms)
    sizes = {layer.name: layer.size for layer in layers}
    kept = choose_kept(candidates, mixture.choose, judge, job.console, sizes=sizes)
    finished = _build(base, candidates, kept, spare=spare)
    reasons = {name: judge.why_kept(cost) for name, cost in kept.items()}
    return finished, Quantization(
        schema=SCHEMA,
        precision="int4",
        scheme=f"weights int4 in blocks of {BLOCK}, one scale each; those that cost too much int8, one scale for each "
        "output channel; depthwise and very small ones fp32, as activations",
        calibration_images=0 if job.calibration is None else len(job.calibration.pixels),
        calibration_texts=0 if job.calibration is None else len(job.calibration.input_ids),
        min_cosine=round(float(judge.cosines(finished).min()), 6),
        layers=tuple(_report(base, forms, candidates, reasons, judge.rows[:SNR_ROWS], spare=spare)),
    )


def _block_axis(layer: WeightLayer) -> int:
    """The axis of the weight that is summed over, along which blocks lie."""
    return 1 - layer.axis


def _fits(graph: Graph, layer: WeightLayer) -> bool:
    shape = graph.constants[layer.weight].dims
    if layer.kind == "embedding":
        return bool(shape[1] % 2 == 0 and shape[0] >= LEAST_ROWS)
    return layer.kind in ("linear", "convolution") and shape[_block_axis(layer)] >= BLOCK


def _has_bytes(graph: Graph, layer: WeightLayer) -> bool:
    """Whether there is a form of 8 bits: of what has one of 4, and of tables whose rows have no halves."""
    rows = graph.constants[layer.weight].dims[0]
    return _fits(graph, layer) or (layer.kind == "embedding" and rows >= LEAST_ROWS)


def _build(
    base: onnx.ModelProto, candidates: Collection[str], kept: Collection[str], *, spare: bool
) -> onnx.ModelProto:
    """The graph with `candidates` in 4 bits but for those `kept`, which have 8, or all their bits when `spare`."""
    graph = Graph(base)
    nodes = {node.name: node for node in graph.nodes}
    for layer in weight_layers(graph):
        if not _has_bytes(graph, layer) or (spare and layer.name in kept):
            continue
        small = layer.name in candidates and layer.name not in kept
        if layer.kind == "embedding":
            (nibble_table if small else byte_table)(graph, layer)
        else:
            widen: Callable[[Graph, WeightLayer], str] = _blocks if small else _bytes
            nodes[layer.node].input[1] = widen(graph, layer)
    return graph.finish(OPSET)


def _blocks(graph: Graph, layer: WeightLayer) -> str:
    """The weight as int4 blocks and a DequantizeLinear; gives the name of the widened weight."""
    rounded, scales = quantise_blocks(graph.array(layer.weight), _block_axis(layer), layer.name)
    packed = pack_int4(rounded)
    tensor = helper.make_tensor(f"{layer.weight}_q4", TensorProto.INT4, rounded.shape, packed.tobytes(), raw=True)
    graph.add_tensor(tensor)
    names = [tensor.name, graph.add_constant(f"{layer.weight}_q4_scale", scales)]
    return graph.add("DequantizeLinear", names, f"{layer.weight}_dq", axis=_block_axis(layer), block_size=BLOCK)


def _bytes(graph: Graph, layer: WeightLayer) -> str:
    rounded, scales = quantise_rows(graph.array(layer.weight), layer.axis, 127, layer.name)
    names = [graph.add_constant(f"{layer.weight}_q8", rounded), graph.add_constant(f"{layer.weight}_q8_scale", scales)]
    return graph.add("DequantizeLinear", names, f"{layer.weight}_dq", axis=layer.axis)


def quantise_blocks(weight: np.ndarray, axis: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int4, -8..7, with one scale for each block of `BLOCK` along `axis`; a block of zeros gets scale 1.

    The largest value of a block takes -8, whichever its sign, and the scale with the least squared error is taken.

    Returns:
        The weight in int8, values -8..7, and its scales, `weight.shape` with `axis` divided by `BLOCK`, rounded up.

    Raises:
        ExportError: the weight is NaN or infinite.
    """
    refuse_infinite(weight, name)
    moved = np.moveaxis(weight, axis, -1)
    length = moved.shape[-1]
    moved = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, -length % BLOCK)])  # the last block may be short
    blocks = moved.reshape(*moved.shape[:-1], -1, BLOCK).astype(np.float64)
    places = np.abs(blocks).argmax(-1)[..., None]
    widest = np.take_along_axis(blocks, places, -1) / -8.0
    widest = np.where(np.abs(widest) > np.finfo(np.float32).tiny, widest, 1.0)
    best = _least_error(blocks.reshape(-1, BLOCK), widest.reshape(-1, 1)).reshape(widest.shape)
    rounded = _round(blocks, best).reshape(moved.shape).astype(np.int8)[..., :length]
    scales = best[..., 0].astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(rounded, -1, axis)), np.ascontiguousarray(np.moveaxis(scales, -1, axis))


def _least_error(blocks: np.ndarray, widest: np.ndarray) -> np.ndarray:
    """The best scale of each block: (N, BLOCK), (N, 1) -> (N, 1)."""
    best = np.empty_like(widest)
    for start in range(0, len(blocks), AT_ONCE):
        part, limit = blocks[start : start + AT_ONCE], widest[start : start + AT_ONCE]
        error = np.full(limit.shape, np.inf)
        for share in SHRINK:
            scale = (limit * share).astype(np.float32).astype(np.float64)
            found = np.square(_round(part, scale) * scale - part).sum(-1, keepdims=True)
            best[start : start + AT_ONCE] = np.where(found < error, scale, best[start : start + AT_ONCE])
            error = np.minimum(found, error)
    return best


def _round(blocks: np.ndarray, scale: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.clip(np.round(blocks / scale), -8, 7)
    return rounded


def pack_int4(values: np.ndarray) -> np.ndarray:
    """Two values in a byte, the first in the low bits, as ONNX stores them."""
    nibbles = (values.reshape(-1) & 15).astype(np.uint8)
    nibbles = np.append(nibbles, np.uint8(0)) if nibbles.size % 2 else nibbles
    packed: np.ndarray = nibbles[::2] | (nibbles[1::2] << 4)
    return packed


def _report(
    base: onnx.ModelProto,
    forms: Mapping[str, Forms],
    candidates: Collection[str],
    kept: Mapping[str, str],
    rows: Rows,
    *,
    spare: bool,
) -> list[Layer]:
    layers = weight_layers(Graph(base))
    changed = [layer for layer in layers if layer.name in candidates]
    ratios = snr_db(base, [Rounded(layer, forms[layer.name].low) for layer in changed], rows)
    found = []
    for layer in layers:
        precision, size_bytes, reason = "int4", layer.size // 2, "chosen"
        if layer.name in kept:
            precision, size_bytes = ("fp32", 4 * layer.size) if spare else ("int8", layer.size)
            reason = kept[layer.name]
        elif layer.name not in candidates:
            precision, size_bytes, reason = "fp32", 4 * layer.size, "small, and its few weights for each output matter"
        found.append(Layer(layer.name, layer.op, precision, reason, ratios.get(layer.name), size_bytes))
    return found


def _rounded(graph: Graph, layer: WeightLayer) -> np.ndarray:
    """The weight as 4 bits would have it."""
    weight = graph.array(layer.weight)
    if layer.kind == "embedding":
        rows, scales = quantise_rows(weight, 0, 7, layer.name)
        widened: np.ndarray = rows * scales[:, None]
        return widened
    axis = _block_axis(layer)
    rounded, scales = quantise_blocks(weight, axis, layer.name)
    length = rounded.shape[axis]
    whole: np.ndarray = rounded * np.repeat(scales, BLOCK, axis).take(range(length), axis)
    return whole


def _widened(graph: Graph, layer: WeightLayer) -> np.ndarray:
    """The weight as 8 bits would have it."""
    weight = graph.array(layer.weight)
    rows, scales = quantise_rows(weight, layer.axis, 127, layer.name)
    widened: np.ndarray = rows * scales.reshape([-1 if axis == layer.axis else 1 for axis in range(weight.ndim)])
    return widened
