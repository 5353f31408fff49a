"""fp16 with as few operations in fp32 as the numbers allow: the Neural Engine has fp16 only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from clip_edge.export.coreml.convert import L2_NORM, NORMALISATIONS, convert
from clip_edge.export.coreml.interface import Interface
from clip_edge.export.coreml.judge import Judge, load, observed
from clip_edge.export.coreml.package import package_files
from clip_edge.export.job import Job
from clip_edge.graphs import MASK_LOGITS
from clip_edge.numerics import TOLERANCES
from clip_edge.quantization import SCHEMA, Layer, Quantization
from clip_edge.runtime.backends.mil.program import Operation, Value

LIMIT = 16384.0  # a quarter of fp16's largest number: other pictures reach further than those measured
ENOUGH = 1 - (1 - TOLERANCES["fp16"].min_cosine) / 2  # lower precisions start from here
LENGTH, ANGLES, RANGE, NORMS, SOFTMAX = "length", "angles", "range", "normalisations", "softmax"
MASKS = "masks"
REASONS = {
    LENGTH: "the embedding's length",
    ANGLES: "angles: many turns of a circle leave fp16 no digits",
    RANGE: "values near the end of fp16's range",
    NORMS: "normalisation",
    SOFTMAX: "softmax",
    MASKS: "masks whose logits lie so near 0 that fp16 makes others of them",
}
ANGULAR = frozenset({"add", "cast", "expand_dims", "linear", "matmul", "mul", "sub"})  # what angles are made by
ANGLE_DEPTH = 5  # such operations between a prompt's points and their waves
RUNGS = ((LENGTH,), (LENGTH, RANGE), (LENGTH, RANGE, NORMS), (LENGTH, RANGE, NORMS, SOFTMAX))


class Base(NamedTuple):
    """A Core ML model, the cosine it reached, and which operations stayed in fp32: name -> `operation:reason`."""

    model: Any
    cosine: float
    in_fp32: dict[str, str]


def convert_half(face: Interface, program: torch.export.ExportedProgram, ios: int, judge: Judge) -> Base:
    """The model in fp16, as far as that goes.

    The embedding's length is always taken in fp32. When that is not enough, what comes near 65504 is added, then
    normalisations, then softmax, and where masks leave the graph, all; the last try is kept as it is and judged by
    `verify`.
    """
    large: frozenset[str] = frozenset()
    for rung in (*RUNGS, (MASKS,)) if MASK_LOGITS in face.outputs else RUNGS:
        if rung[-1] == RANGE:
            large = _large_values(face, program, ios, judge)
        kept: dict[str, str] = {}
        model = convert(face, program, ios, _selector(rung, large, kept))
        cosine = judge.score(package_files(model, face))
        if cosine >= ENOUGH:
            break
    return Base(model, cosine, kept)


def report(job: Job, files: Mapping[str, bytes], cosine: float, in_fp32: Mapping[str, str]) -> Quantization:
    """What stayed in fp32, by operation."""
    function = load(files)
    layers = [
        Layer(name, operation, "fp32", REASONS[why], None, 0)
        for name, (operation, _, why) in ((key, value.partition(":")) for key, value in in_fp32.items())
    ]
    halves = sum(item.outputs[0][1].data.name == "fp16" for item in function.operations)
    calibration = job.calibration
    return Quantization(
        schema=SCHEMA,
        precision="fp16",
        scheme=f"fp16 weights and activations in {halves} of {len(function.operations)} operations; the rest in fp32",
        calibration_images=0 if calibration is None else len(calibration.pixels),
        calibration_texts=0 if calibration is None else len(calibration.input_ids),
        min_cosine=round(cosine, 6),
        layers=tuple(layers),
    )


def _selector(rung: tuple[str, ...], large: frozenset[str], kept: dict[str, str]) -> Callable[[Any], bool]:
    """Whether an operation stays in fp32; what does is written to `kept` as `operation:reason`."""

    def in_fp32(operation: Any) -> bool:
        why = _why(operation, rung, large)
        if why is not None and operation.op_type != "const":
            kept[operation.name] = f"{operation.op_type}:{why}"
        return why is not None

    return in_fp32


def _why(operation: Any, rung: tuple[str, ...], large: frozenset[str]) -> str | None:
    if MASKS in rung:
        return MASKS
    if operation.op_type in L2_NORM and _is_length(operation):
        return LENGTH
    if _makes_angle(operation):
        return ANGLES
    if RANGE in rung and large:
        names = {value.name for value in operation.outputs}
        names |= {value.name for value in operation.inputs.values() if hasattr(value, "name")}
        if names & large:
            return RANGE
    if NORMS in rung and operation.op_type in NORMALISATIONS:
        return NORMS
    return SOFTMAX if SOFTMAX in rung and operation.op_type in ("softmax", "scaled_dot_product_attention") else None


def _makes_angle(operation: Any, depth: int = 0) -> bool:
    """Whether it is a sine or cosine, or computes what goes into one."""
    if operation.op_type in ("sin", "cos"):
        return True
    if depth == ANGLE_DEPTH or operation.op_type not in ANGULAR:
        return False
    return any(_makes_angle(user, depth + 1) for value in operation.outputs for user in value.child_ops)


def _is_length(operation: Any) -> bool:
    """Whether it works on the embedding, (1, D) or its length (1, 1): the rest of the graph has more axes."""
    return all(len(value.shape) == 2 for value in operation.outputs)


def _large_values(face: Interface, program: torch.export.ExportedProgram, ios: int, judge: Judge) -> frozenset[str]:
    """Names of the values whose fp32 form comes near the end of fp16's range."""
    found: set[str] = set()

    def look(operation: Operation, values: Mapping[str, Value]) -> None:
        for name in (name for names in operation.inputs.values() for name in names):
            value = values[name]
            if isinstance(value, np.ndarray) and value.dtype == np.float32 and np.abs(value).max(initial=0) > LIMIT:
                found.add(name)

    function = load(package_files(convert(face, program, ios, None), face))
    for _ in observed(function, judge.rows, look):
        pass
    return frozenset(found)
