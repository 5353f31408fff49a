"""Fewer bits for weights and activations; layers that cost most are kept higher until the tolerance holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from clip_edge.export.coreml import rewrite
from clip_edge.export.coreml.convert import editable, lower
from clip_edge.export.coreml.judge import Judge, load, measured_rows, observed
from clip_edge.export.coreml.package import package_files
from clip_edge.export.coreml.weights import Packed, Weight, pack, snr_db
from clip_edge.export.job import Job
from clip_edge.quantization import SCHEMA, Layer, Quantization
from clip_edge.runtime.backends.mil.program import Function, Operation, Value

HIGHER = {"int4": "int8", "pal4": "int8", "pal6": "int8", "int8": "fp16", "w8a8": "fp16"}
SHARES = (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of the layers that are kept higher, tried in turn
SCHEMES = {
    "int8": "weights in int8, one scale for each output channel; activations in fp16",
    "int4": "weights in int4, one scale for each 32 inputs of an output channel; activations in fp16",
    "pal6": "weights as 6-bit indices into tables of fp16 numbers; activations in fp16",
    "pal4": "weights as 4-bit indices into tables of fp16 numbers; activations in fp16",
    "w8a8": "weights in int8, one scale for each output channel; inputs of dense layers in int8 or uint8",
}
TAP = "depthwise: its largest tap would leave no steps for the others"
COSTLY = "the tolerance did not hold without it"
CHOSEN = "chosen"
ACTIVATION_ROWS = 4  # on which the cost of each activation's eight bits is measured


def reduce(
    job: Job, ios: int, judge: Judge, model: Any, files: Mapping[str, bytes]
) -> tuple[Mapping[str, bytes], Quantization]:
    """The package of `model` (`files`, in fp16) in `job.precision`, and the report.

    Layers are ranked by signal to noise: of their weights, and for `w8a8` of their input where that is lower. The worst
    go to the next higher precision, more of them with each try, until every judged row is near enough.
    """
    program = editable(model)
    weights = rewrite.find_weights(program)
    bits = "int8" if job.precision == "w8a8" else job.precision
    packed = {name: pack(weight.values, bits, ios) for name, weight in weights.items() if not weight.depthwise}
    noise = {name: snr_db(weights[name].values, item.dense()) for name, item in packed.items()}
    peaks: dict[str, tuple[float, float]] = {}
    if job.precision == "w8a8":
        peaks, heard = _activations(job, program, judge, load(files))
        noise |= {name: min(_decibels(noise.get(name)), value) for name, value in heard.items() if name in noise}
    ranked = sorted(noise, key=lambda name: _decibels(noise[name]))
    for count in dict.fromkeys(math.ceil(share * len(ranked)) for share in SHARES):
        kept = frozenset(ranked[:count])
        final = _final(packed, weights, kept, job.precision, ios)
        changed = editable(model)
        if peaks:
            rewrite.quantize_activations(changed, peaks, kept)
        rewrite.compress(changed, final, ios)
        smaller = package_files(lower(changed, model), job)
        cosine = judge.cosine(smaller)
        if cosine >= judge.wanted:
            break
        job.console.say(f"{job.tower} {job.precision}: cosine {cosine:.4f} with {count} layers kept higher")
    return smaller, _report(job, weights, final, noise, kept, cosine)


def _final(
    packed: Mapping[str, Packed], weights: Mapping[str, Weight], kept: frozenset[str], precision: str, ios: int
) -> dict[str, Packed]:
    """The packed form of each layer; layers that stay in fp16 have none."""
    final = {name: item for name, item in packed.items() if name not in kept}
    if HIGHER[precision] != "fp16":
        final |= {name: pack(weights[name].values, HIGHER[precision], ios) for name in kept}
    return final


def _activations(
    job: Job, program: Any, judge: Judge, function: Function
) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """The range of each activation that eight bits may hold, and by the weight's name what they would cost there."""
    readers: dict[str, list[str]] = {}
    for reader, name in rewrite.quantized_inputs(program):
        readers.setdefault(name, []).append(reader.inputs["weight"].name)
    peaks: dict[str, tuple[float, float]] = {}
    power: dict[str, list[float]] = {name: [0.0, 0.0] for name in readers}

    def watched(operation: Operation, values: Mapping[str, Value]) -> list[tuple[str, np.ndarray]]:
        if operation.type not in ("conv", "linear"):
            return []
        name = operation.inputs["x"][0]
        return [(name, np.asarray(values[name]))] if name in readers else []

    def measure(operation: Operation, values: Mapping[str, Value]) -> None:
        for name, value in watched(operation, values):
            low, high = peaks.get(name, (0.0, 0.0))
            peaks[name] = min(low, float(value.min())), max(high, float(value.max()))

    def listen(operation: Operation, values: Mapping[str, Value]) -> None:
        for name, value in watched(operation, values):
            dtype, scale = rewrite.activation_scale(*peaks[name])
            limits = np.iinfo(dtype)
            error = np.clip(np.rint(value / np.float32(scale)), limits.min, limits.max) * np.float32(scale) - value
            power[name][0] += float((value**2).sum())
            power[name][1] += float((error**2).sum())

    rows = measured_rows(job)
    for _ in observed(function, judge.input, rows, measure):
        pass
    for _ in observed(function, judge.input, rows[:ACTIVATION_ROWS], listen):
        pass
    decibels = {name: 10 * math.log10(sent / lost) for name, (sent, lost) in power.items() if sent and lost}
    heard = {weight: value for name, value in decibels.items() for weight in readers[name]}
    return peaks, heard


def _decibels(value: float | None) -> float:
    return math.inf if value is None else value


def _report(
    job: Job,
    weights: Mapping[str, Weight],
    final: Mapping[str, Packed],
    noise: Mapping[str, float | None],
    kept: frozenset[str],
    cosine: float,
) -> Quantization:
    layers = []
    for name, weight in weights.items():
        item = final.get(name)
        precision = "fp16" if item is None else HIGHER[job.precision] if name in kept else job.precision
        reason = TAP if weight.depthwise else COSTLY if name in kept else CHOSEN
        size = 2 * weight.values.size if item is None else item.bytes
        error = noise.get(name) if item is not None else None
        if item is not None and name in kept:
            error = snr_db(weight.values, item.dense())
        layers.append(Layer(name.removesuffix("_to_fp16"), weight.op, precision, reason, error, size))
    calibration = job.calibration
    return Quantization(
        schema=SCHEMA,
        precision=job.precision,
        scheme=SCHEMES[job.precision],
        calibration_images=0 if calibration is None else len(calibration.pixels),
        calibration_texts=0 if calibration is None else len(calibration.input_ids),
        min_cosine=round(cosine, 6),
        layers=tuple(layers),
    )
