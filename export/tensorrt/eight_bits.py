"""8 bits where TensorRT gains by them: which layers, what each costs, and which go back until the numbers hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort

from clip_edge.errors import ExportError, UsageError
from clip_edge.export.calibration import Calibration, judged_rows, measured_rows
from clip_edge.export.job import Job
from clip_edge.export.quantize.graph import Graph, WeightLayer, weight_layers
from clip_edge.export.quantize.qdq import TENSORRT, insert_qdq, quantised_values
from clip_edge.export.quantize.ranges import Range, choose_range, observe
from clip_edge.export.tensorrt.fp8 import to_fp8
from clip_edge.export.tensorrt.half import ROUNDING, to_half
from clip_edge.numerics import TOLERANCES, cosine_rows
from clip_edge.preprocess import Floats
from clip_edge.quantization import SCHEMA, Layer, Quantization

LEAST_CHANNELS = 16  # narrower products fill no tensor core: 8 bits only add conversions
MARGIN = 0.0015  # above the tolerance: another processor rounds some sums the other way
STEP = 0.1  # share of the 8-bit layers that goes back to fp16 at a time, worst first
ROWS = 16  # that costs are measured on, and held together


@dataclass(frozen=True)
class _Towers:
    """What every attempt needs: the fp32 graph, ranges, and the rows to judge by with what fp32 makes of them."""

    model: onnx.ModelProto
    ranges: Mapping[str, Range]
    judged: np.ndarray
    reference: Floats


def eight_bits(model: onnx.ModelProto, job: Job) -> tuple[onnx.ModelProto, Quantization]:
    """`model` with int8 or fp8 products between explicit Q/DQ pairs and fp16 around them.

    Layers that cost most go back to fp16 until the golden rows and the held-out half keep the tolerance.

    Raises:
        UsageError: no calibration data: made-up ranges give a model that looks right and is wrong.
        ExportError: not even one 8-bit layer keeps the tolerance.
    """
    calibration = _calibration(job)
    dtype = job.declaration.input_dtype
    measured, judged = measured_rows(job, calibration).astype(dtype), judged_rows(job).astype(dtype)
    layers = weight_layers(Graph(model))
    reasons = refusals(model, layers)
    chosen = [layer.name for layer in layers if layer.name not in reasons]
    names = quantised_values(model, chosen, TENSORRT)
    seen = observe(model, names, measured, console=job.console)
    ranges = {name: choose_range(seen[name], "mse", symmetric=True) for name in names}
    towers = _Towers(model, ranges, judged, _run(model, judged))
    costs = signal_to_noise(model, chosen, ranges, judged[:: max(1, len(judged) // ROWS)])
    lowered, cosine, kept = _settle(towers, chosen, costs, job)
    reasons |= dict.fromkeys(set(chosen) - set(kept), "costs most: back to fp16 until the tolerance held")
    return lowered, _report(job, model, layers, reasons, costs, cosine)


def _calibration(job: Job) -> Calibration:
    if job.calibration is None:
        raise UsageError(
            f"{job.precision} for target `{job.target.folder}` needs calibration data",
            hint="name pictures and sentences of the kind that the model will see: --calibration DATA",
        )
    return job.calibration


def refusals(model: onnx.ModelProto, layers: Collection[WeightLayer]) -> dict[str, str]:
    """The layers that stay in fp16 whatever they cost, each with its reason."""
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.value_info, *inferred.graph.input)
    }
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


def _settle(
    towers: _Towers, chosen: list[str], costs: Mapping[str, float], job: Job
) -> tuple[onnx.ModelProto, float, list[str]]:
    wanted = TOLERANCES[job.precision].min_cosine + MARGIN
    kept = sorted(chosen, key=lambda name: -costs[name])  # quietest first
    while kept:
        lowered = insert_qdq(towers.model, kept, towers.ranges, TENSORRT)
        if job.precision == "fp8":
            lowered = to_fp8(lowered, towers.model, kept)
        lowered = to_half(lowered)
        cosine = float(cosine_rows(_run(lowered, towers.judged), towers.reference).min())
        job.console.say(f"{job.tower} tower: {len(kept)} layers in {job.precision}, cosine {cosine:.4f} at worst")
        if cosine >= wanted:
            return lowered, cosine, kept
        kept = kept[: len(kept) - max(1, round(STEP * len(kept)))]
    raise ExportError(
        f"no layer of the {job.tower} tower keeps a cosine of {wanted:.3f} in {job.precision}",
        hint="export fp16, or give calibration data of the kind that the model was trained on",
    )


def signal_to_noise(
    model: onnx.ModelProto, names: Collection[str], ranges: Mapping[str, Range], rows: np.ndarray
) -> dict[str, float]:
    """Each layer's output in 8 bits against fp32, in decibels, as if it were the only one: input and weight rounded.

    One run of both graphs: side by side in `names`, the 8-bit layers read what fp32 computed.
    """
    graph = Graph(model)
    layers = [layer for layer in weight_layers(graph) if layer.name in names]
    outputs = []
    for layer in layers:
        alone = Graph(insert_qdq(model, [layer.name], ranges, TENSORRT))
        branch = next(node for node in alone.nodes if node.name == layer.node)
        makers = alone.makers()
        wanted = [branch]
        for node in wanted:  # grows: everything between the fp32 value and this product
            before = [makers[name] for name in node.input if name in makers]
            wanted += [maker for maker in before if maker.op_type in ROUNDING]
        outputs.append(_append_branch(graph, alone, layer, wanted))
    probe = graph.model
    del probe.graph.node[:]
    probe.graph.node.extend(graph.nodes)
    del probe.graph.initializer[:]
    probe.graph.initializer.extend(graph.constants.values())
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for pair in outputs for name in pair)
    sums = np.zeros((len(layers), 2))
    session = _session(probe)
    for start in range(0, len(rows), 4):
        found = session.run(None, {graph.input: rows[start : start + 4]})
        sums += np.array([float(value) for value in found]).reshape(-1, 2)
    power, error = np.maximum(sums, 1e-30).T
    decibels = 10 * np.log10(power / error)
    return {layer.name: float(value) for layer, value in zip(layers, decibels, strict=True)}


def _append_branch(graph: Graph, alone: Graph, layer: WeightLayer, nodes: list[onnx.NodeProto]) -> tuple[str, str]:
    """Copy the 8-bit form of a layer beside the fp32 one, under names of its own; gives power and error power."""
    prefix = f"{layer.node}__8bit__"
    made = {name for node in nodes for name in node.output}
    for node in reversed(nodes):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = prefix + node.name
        for index, name in enumerate(node.input):
            if name in made:
                copy.input[index] = prefix + name
            elif name in alone.constants and name not in graph.constants:
                graph.add_tensor(alone.constants[name])
        for index, name in enumerate(node.output):
            copy.output[index] = prefix + name
        graph.nodes.append(copy)
    difference = graph.add("Sub", [layer.output, prefix + layer.output], f"{prefix}difference")
    power = graph.add("ReduceSumSquare", [layer.output], f"{prefix}power", keepdims=0)
    return power, graph.add("ReduceSumSquare", [difference], f"{prefix}error", keepdims=0)


def _report(
    job: Job,
    model: onnx.ModelProto,
    layers: Collection[WeightLayer],
    reasons: Mapping[str, str],
    costs: Mapping[str, float],
    cosine: float,
) -> Quantization:
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    found = []
    for layer in layers:
        low = layer.name not in reasons
        found.append(
            Layer(
                name=layer.name,
                op=layer.op,
                precision=job.precision if low else "fp16",
                reason=reasons.get(layer.name, "chosen"),
                snr_db=None if layer.name not in costs else round(costs[layer.name], 2),
                weight_bytes=sizes[layer.weight] * (1 if low else 2),
            )
        )
    assert job.calibration is not None
    images, texts = (len(rows) for rows in (job.calibration.pixels, job.calibration.input_ids))
    scheme = (
        f"{job.precision} products between Q/DQ pairs: weights per output channel, activations per tensor, symmetric, "
        "least squared error; float biases; everything else fp16, normalisations and softmax fp32"
    )
    return Quantization(SCHEMA, job.precision, scheme, images, texts, round(cosine, 6), tuple(found))


def _run(model: onnx.ModelProto, rows: np.ndarray) -> Floats:
    session = _session(model)
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: rows[start : start + 8]})[0] for start in range(0, len(rows), 8)]
    found: Floats = np.concatenate(parts)
    return found


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # sums in one order: the same choice on every machine
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # fused kernels misread fp16 scales (1.32)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
