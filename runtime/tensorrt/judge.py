"""Did TensorRT keep the precision that was asked? The engine inspector's JSON, layer by layer."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

MAX_FALLEN = 0.10  # share of layers that may run in a higher precision: TensorRT may find none quicker for odd sizes
MIN_SEEN = 0.50  # share of layers that must be found in the engine before anything can be said
ORDER = ("int4", "fp8", "int8", "fp16", "bf16", "fp32")  # a layer fell back when it ended further right

# Words of data types, formats and kernel names. The first that matches decides, so the special ones stand first.
MARKS = (
    ("fp8", re.compile(r"fp8|e4m3", re.I)),
    ("int8", re.compile(r"int8|i8i8|imma|s8s8", re.I)),
    ("bf16", re.compile(r"bf16|bfloat16", re.I)),
    ("fp16", re.compile(r"half|fp16|f16f16|float16|h16816|h1688|h884", re.I)),
    ("fp32", re.compile(r"float|fp32|f32f32|tf32|sgemm", re.I)),
)
ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True)
class Judgement:
    """What became of the layers: as asked, fallen back (name -> precision found), or nowhere to be seen."""

    asked: dict[str, int]
    kept: int
    fallen: dict[str, str]
    unseen: tuple[str, ...]
    problem: str | None


def judge(asked: dict[str, str], information: str) -> Judgement:
    """Compare `asked` (ONNX name -> precision) with the inspector's JSON of a built engine.

    A layer that was fused or folded so that its name is gone counts as unseen, not as kept.
    """
    found = found_precisions(information)
    kept, fallen, unseen = 0, {}, []
    for name, precision in asked.items():
        if name not in found:
            unseen.append(name)
        elif _is_higher(found[name], precision):
            fallen[name] = found[name]
        else:
            kept += 1
    problem = _problem(asked, kept, fallen)
    return Judgement(dict(sorted(Counter(asked.values()).items())), kept, fallen, tuple(unseen), problem)


def found_precisions(information: str) -> dict[str, str]:
    """ONNX name -> precision of the engine layer that computes it, from the inspector's JSON."""
    found: dict[str, str] = {}
    try:
        value = json.loads(information)
    except ValueError:
        return found
    layers = value.get("Layers", []) if isinstance(value, dict) else []
    for layer in layers if isinstance(layers, list) else []:
        precision = _precision(layer) if isinstance(layer, dict) else None  # without details there is only a name
        if precision is None:
            continue
        for name in ONNX_LAYER.findall(str(layer.get("Metadata", ""))) or [str(layer.get("Name", ""))]:
            if name not in found or _is_higher(precision, found[name]):
                found[name] = precision  # a cast of the same node runs before or behind it: the product decides
    return found


def _precision(layer: dict[str, Any]) -> str | None:
    """By the weights where they are listed, else by the kernel's name, else by the type of the first input."""
    weights, inputs = layer.get("Weights"), layer.get("Inputs")
    clues = [
        weights.get("Type") if isinstance(weights, dict) and weights.get("Count") != 0 else None,
        layer.get("TacticName"),
        _type(inputs[0]) if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict) else None,
    ]
    for clue in clues:
        for precision, mark in MARKS:
            if clue and mark.search(str(clue)):
                return precision
    return None


def _type(tensor: dict[str, Any]) -> object:
    return tensor.get("Format/Datatype") or tensor.get("Datatype")


def _is_higher(found: str, asked: str) -> bool:
    return ORDER.index(found) > ORDER.index(asked)


def _problem(asked: dict[str, str], kept: int, fallen: dict[str, str]) -> str | None:
    seen = kept + len(fallen)
    if not asked or seen < MIN_SEEN * len(asked):
        return f"the engine names only {seen} of {len(asked)} layers: its precision cannot be judged"
    if len(fallen) > MAX_FALLEN * seen:
        counts = ", ".join(f"{count} in {name}" for name, count in sorted(Counter(fallen.values()).items()))
        return f"{len(fallen)} of {seen} layers run in a higher precision than asked ({counts}), {MAX_FALLEN:.0%} may"
    return None
