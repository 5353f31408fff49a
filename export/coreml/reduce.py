"""Fewer bits for weights and activations; layers that cost most are kept higher until the tolerance holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from clip_edge.export.coreml import rewrite
from clip_edge.export.coreml.convert import editable, lower
from clip_edge.export.coreml.interface import Interface
from clip_edge.export.coreml.judge import Judge, load, measured_rows, observed
from clip_edge.export.coreml.package import package_files
from clip_edge.export.coreml.weights import Packed, Weight, pack, snr_db
from clip_edge.export.job import Job
from clip_edge.quantization import SCHEMA, Layer, Quantization
from clip_edge.runtime.backends.mil.program import Function, Operation, Value

LADDERS = {  # what a layer is given: the precision asked for, or as much more as the tolerance needs
    "int4": ("int4", "int8", "fp16"),
    "pal4": ("pal4", "int8", "fp16"),
    "pal6": ("pal6", "int8", "fp16"),
    "int8": ("int8", "fp16"),
    "w8a8": ("w8a8", "fp16"),
}
WEIGHTS_OF = {"w8a8": "int8"}
FINENESS = 16  # the search for the fewest steps up stops at a sixteenth of the layers
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
    face: Interface, ios: int, judge: Judge, model: Any, files: Mapping[str, bytes]
) -> tuple[Mapping[str, bytes], Quantization]:
    """The package of `model` (`files`, in fp16) in `job.precision`, and the report.

    Layers are ranked by signal to noise: of their weights, and for `w8a8` of their input where that is lower. When
    the tolerance does not hold, the worst go one step up the ladder, then all, then the worst another step; the
    fewest steps that do are found by bisection.
    """
    job = face.job
    program = editable(model)
    everything = rewrite.find_weights(program)
    weights = {name: item for name, item in everything.items() if not item.depthwise}
    taps = {name: item for name, item in everything.items() if item.depthwise}
    noise = {name: snr_db(item.values, _pack(item, job.precision, ios).dense()) for name, item in weights.items()}
    peaks: dict[str, tuple[float, float]] = {}
    if job.precision == "w8a8":
        peaks, heard = _activations(face, program, load(files))
        noise |= {name: min(_decibels(noise.get(name)), value) for name, value in heard.items() if name in noise}
    ranked = sorted(noise, key=lambda name: _decibels(noise[name]))

    def attempt(steps: int) -> _Attempt:
        levels = _levels(ranked, LADDERS[job.precision], steps)
        packed = {name: _pack(weights[name], level, ios) for name, level in levels.items() if level != "fp16"}
        changed = editable(model)
        if peaks:
            rewrite.quantize_activations(changed, peaks, frozenset(weights) - packed.keys())
        rewrite.compress(changed, packed, ios)
        smaller = package_files(lower(changed, model), face)
        return _Attempt(levels, packed, smaller, judge.score(smaller))

    found = _fewest(attempt, (len(LADDERS[job.precision]) - 1) * len(ranked), len(ranked), judge.wanted)
    return found.files, _report(job, weights, taps, noise, found)


class _Attempt(NamedTuple):
    """What each layer was given, its packed form (none in fp16), the package, and the cosine it reached."""

    levels: dict[str, str]
    packed: dict[str, Packed]
    files: Mapping[str, bytes]
    cosine: float


def _fewest(attempt: Callable[[int], _Attempt], most: int, layers: int, wanted: float) -> _Attempt:
    """The attempt with the fewest steps up that reaches `wanted`, or the one with `most`."""
    best = attempt(0)
    if best.cosine >= wanted or most == 0:
        return best
    low, high = 0, most
    best = attempt(high)
    while high - low > max(1, layers // FINENESS) and best.cosine >= wanted:
        middle = (low + high) // 2
        tried = attempt(middle)
        if tried.cosine >= wanted:
            best, high = tried, middle
        else:
            low = middle
    return best


def _levels(ranked: list[str], ladder: tuple[str, ...], steps: int) -> dict[str, str]:
    """Each layer's precision after `steps` steps up: one for each layer in turn, the worst first, then again."""
    rounds, rest = divmod(steps, len(ranked)) if ranked else (0, 0)
    return {name: ladder[rounds + (index < rest)] for index, name in enumerate(ranked)}


def _pack(weight: Weight, level: str, ios: int) -> Packed:
    return pack(weight.values, WEIGHTS_OF.get(level, level), ios)


def _activations(
    face: Interface, program: Any, function: Function
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

    rows = measured_rows(face)
    for _ in observed(function, rows, measure):
        pass
    for _ in observed(function, rows[:ACTIVATION_ROWS], listen):
        pass
    decibels = {name: 10 * math.log10(sent / lost) for name, (sent, lost) in power.items() if sent and lost}
    heard = {weight: value for name, value in decibels.items() for weight in readers[name]}
    return peaks, heard


def _decibels(value: float | None) -> float:
    return math.inf if value is None else value


def _report(
    job: Job,
    weights: Mapping[str, Weight],
    taps: Mapping[str, Weight],
    noise: Mapping[str, float | None],
    found: _Attempt,
) -> Quantization:
    layers = [_layer(name, item, "fp16", TAP, None, None) for name, item in taps.items()]
    for name, weight in weights.items():
        level, packed = found.levels[name], found.packed.get(name)
        chosen = level == job.precision
        error = noise[name] if chosen else None if packed is None else snr_db(weight.values, packed.dense())
        layers.append(_layer(name, weight, level, CHOSEN if chosen else COSTLY, error, packed))
    calibration = job.calibration
    return Quantization(
        schema=SCHEMA,
        precision=job.precision,
        scheme=SCHEMES[job.precision],
        calibration_images=0 if calibration is None else len(calibration.pixels),
        calibration_texts=0 if calibration is None else len(calibration.input_ids),
        min_cosine=round(found.cosine, 6),
        layers=tuple(layers),
    )


def _layer(name: str, weight: Weight, precision: str, reason: str, error: float | None, packed: Packed | None) -> Layer:
    size = 2 * weight.values.size if packed is None else packed.bytes
    return Layer(name.removesuffix("_to_fp16"), weight.op, precision, reason, error, size)
