"""8 bits where TensorRT gains by them: which layers, what each costs, and which go back until the numbers hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import ml_dtypes
import numpy as np
import onnx

from clip_edge.export.calibration import judged_rows, measured_rows
from clip_edge.export.half import Rules, half_nodes, overflowing, to_half
from clip_edge.export.job import Job
from clip_edge.export.quantize.graph import Graph, WeightLayer, value_infos, weight_layers
from clip_edge.export.quantize.judge import Judge, choose_kept, has_masks
from clip_edge.export.quantize.layers import Rounded, snr_db
from clip_edge.export.quantize.qdq import TENSORRT, insert_qdq, quantise_rows, quantised_values
from clip_edge.export.quantize.ranges import Range, choose_range, observe
from clip_edge.export.rows import Rows
from clip_edge.export.tensorrt.fp8 import LARGEST, to_fp8
from clip_edge.numerics import TOLERANCES
from clip_edge.quantization import SCHEMA, Layer, Quantization

LEAST_CHANNELS = 16  # narrower products fill no tensor core: 8 bits only add conversions
SNR_ROWS = 8
SPARE = (0.0, 0.0015, 0.003)  # of cosine, beside the margin: what fp16 around the 8 bits may cost


def eight_bits(model: onnx.ModelProto, job: Job) -> tuple[onnx.ModelProto, Quantization]:
    """`model` with int8 or fp8 products between explicit Q/DQ pairs and fp16 around them.

    Layers are chosen with fp32 around them, as target `onnx` chooses (`choose_kept`); fp16 comes last, and where it
    moves a cosine by more than the margin they are chosen again with more to spare.

    Raises:
        ExportError: not even one 8-bit layer keeps the tolerance.
    """
    assert job.calibration is not None  # `refuse_unmeasured` saw to it
    measured, judged = measured_rows(job, job.calibration), judged_rows(job)
    layers = weight_layers(Graph(model))
    reasons = refusals(model, layers)
    candidates = [layer.name for layer in layers if layer.name not in reasons]
    sizes = {layer.name: layer.size for layer in layers}
    names = quantised_values(model, candidates, TENSORRT)
    seen = observe(model, names, measured, console=job.console)
    ranges = {name: choose_range(seen[name], "mse", symmetric=True) for name in names}

    def build(chosen: Collection[str]) -> onnx.ModelProto:
        lowered = insert_qdq(model, chosen, ranges, TENSORRT)
        return to_fp8(lowered, model, chosen) if job.precision == "fp8" else lowered

    large = overflowing(model, judged, job.console)
    tolerance = TOLERANCES[job.precision].min_cosine
    for spare in SPARE:
        judge = Judge(model, judged, tolerance + spare, fuse=False)
        kept = choose_kept(candidates, build, judge, job.console, sizes=sizes)
        lowered = nearest_half(build([name for name in candidates if name not in kept]), model, large, judged, job)
        if judge.cosines(lowered).min() >= tolerance:
            break
    reasons |= {name: judge.why_kept(cost) for name, cost in kept.items()}
    ratios = _ratios(model, [layer for layer in layers if layer.name in candidates], ranges, job, measured)
    return lowered, _report(job, layers, reasons, ratios, float(judge.cosines(lowered).min()))


def nearest_half(
    model: onnx.ModelProto, reference: onnx.ModelProto, large: Collection[str], rows: Rows, job: Job
) -> onnx.ModelProto:
    """`to_half`, with the nodes `large` in fp32, and of masks as many others as their tolerance needs: where logits lie
    near 0, every digit counts. `reference` is the graph in fp32."""
    rules = Rules()
    if not has_masks(model):
        return to_half(model, rules, large)
    judge = Judge(reference, rows, TOLERANCES[job.precision].min_cosine, fuse=False)
    names = half_nodes(model, rules, large)
    kept = choose_kept(names, lambda half: to_half(model, rules, {*large, *names} - {*half}), judge, job.console)
    return to_half(model, rules, {*large, *kept})


def refusals(model: onnx.ModelProto, layers: Collection[WeightLayer]) -> dict[str, str]:
    """The layers that stay in fp16 whatever they cost, each with its reason."""
    shapes = {value.name: [side.dim_value for side in value.type.tensor_type.shape.dim] for value in value_infos(model)}
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    found = {}
    for layer in layers:
        reason = _refusal(layer, shapes.get(layer.input, []), list(weights[layer.weight]))
        if reason is not None:
            found[layer.name] = reason
    return found


def _refusal(layer: WeightLayer, shape: list[int], weight: list[int]) -> str | None:
    if layer.kind == "embedding":
        return "embedding table: read, not multiplied"
    if layer.kind == "depthwise":
        return "depthwise: bound by memory, and a folded identity tap leaves no steps for the other taps"
    if min(weight[:2]) < LEAST_CHANNELS:
        return f"fewer than {LEAST_CHANNELS} channels"
    if len(shape) == 2 or (len(shape) == 4 and shape[2:] == [1, 1]):
        return "one vector for each row (squeeze-and-excite, pooled head): nothing to gain"
    return None


def _ratios(
    model: onnx.ModelProto,
    layers: Collection[WeightLayer],
    ranges: Mapping[str, Range],
    job: Job,
    rows: Rows,
) -> dict[str, float]:
    """Each layer's output in 8 bits against fp32, in decibels, as if it were the only one (fp8: weights alone)."""
    graph = Graph(model)
    rounded = []
    for layer in layers:
        weight = graph.array(layer.weight)
        shape = [-1 if axis == layer.axis else 1 for axis in range(weight.ndim)]
        whole, scales = quantise_rows(weight, layer.axis, TENSORRT.weight_max, layer.name)
        steps = scales.reshape(shape)
        if job.precision == "fp8":
            steps = steps * (TENSORRT.weight_max / LARGEST)
            whole = (weight / steps).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        span = None if job.precision == "fp8" else ranges[layer.input]
        rounded.append(Rounded(layer, whole * steps, span))
    return snr_db(model, rounded, rows[:SNR_ROWS])


def _report(
    job: Job,
    layers: Collection[WeightLayer],
    reasons: Mapping[str, str],
    ratios: Mapping[str, float],
    cosine: float,
) -> Quantization:
    found = []
    for layer in layers:
        low = layer.name not in reasons
        found.append(
            Layer(
                name=layer.name,
                op=layer.op,
                precision=job.precision if low else "fp16",
                reason=reasons.get(layer.name, "chosen"),
                snr_db=ratios.get(layer.name),
                weight_bytes=layer.size * (1 if low else 2),
            )
        )
    assert job.calibration is not None
    images, texts = (len(rows) for rows in (job.calibration.pixels, job.calibration.input_ids))
    scheme = (
        f"{job.precision} products between Q/DQ pairs: weights per output channel, activations per tensor, symmetric, "
        "least squared error; float biases; everything else fp16, normalisations and softmax fp32"
    )
    return Quantization(SCHEMA, job.precision, scheme, images, texts, round(cosine, 6), tuple(found))
