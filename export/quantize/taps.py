"""The identity in folded depthwise kernels, and three ways to bring it into 8 bits.

    python -m clip_edge.export.quantize.taps MODEL --data DATA

A folded RepMixer (FastViT, Vasu et al. 2023, section 3.1) is x + scale * (mixer - norm)(x) in one kernel: its centre
is near 1, and one step of 8 bits may be larger than all its other taps. `keep` quantises such kernels as they are, each
channel with its own scale; `split` takes the identity out and adds x behind the kernel; `equalise` lets a depthwise
kernel and the convolution behind it share the range of each channel (Nagel et al. 2019, section 4.1). Prints one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from clip_edge.bundle import TOWERS, Tower
from clip_edge.console import SILENT
from clip_edge.export.attention import plain_attention
from clip_edge.export.calibration import judged_rows, load_calibration
from clip_edge.export.job import Job
from clip_edge.export.onnx import clean, trace
from clip_edge.export.quantize.graph import Graph, WeightLayer, weight_layers
from clip_edge.export.quantize.int8 import everything, quantise
from clip_edge.export.quantize.judge import Judge
from clip_edge.export.sources import Exportable, load_source
from clip_edge.export.targets import TARGETS
from clip_edge.export.towers import fold, probe_ids, probe_pixels
from clip_edge.numerics import TOLERANCES

DOMINANT = 4.0  # times the largest other tap, in the median channel: from there on a kernel holds an identity


@dataclass(frozen=True)
class Outcome:
    """One way for one tower. Cosines are the smallest to fp32, on the golden rows and the held-out half of the data."""

    tower: Tower
    way: str
    kernels: int  # depthwise kernels with an identity
    lost_taps: float  # share of the taps beside the centre that one step of 8 bits rounds to 0, of these kernels
    all_int8_cosine: float  # every layer that may be in 8 bits is
    min_cosine: float  # as exported: layers that cost too much are in fp32
    kept_layers: int
    kept_kernels: int  # depthwise ones among them
    bytes: int


def identity_kernels(graph: Graph) -> list[WeightLayer]:
    """Depthwise layers that give back what they read, plus a little: the same size, and a centre that dominates."""
    nodes = {node.name: node for node in graph.nodes}
    found = []
    for layer in (layer for layer in weight_layers(graph) if layer.kind == "depthwise"):
        weight = graph.array(layer.weight)
        settings = {item.name: onnx.helper.get_attribute_value(item) for item in nodes[layer.node].attribute}
        sizes = weight.shape[2:]
        centred = all(size % 2 for size in sizes) and settings.get("pads") == [size // 2 for size in sizes] * 2
        steady = all(set(settings.get(name, [1])) == {1} for name in ("strides", "dilations"))
        centre, others = _taps(weight)
        if centred and steady and np.median(np.abs(centre) / np.maximum(np.abs(others).max(1), 1e-12)) >= DOMINANT:
            found.append(layer)
    return found


def split_identity(graph: Graph) -> None:
    """Write each of these kernels as x + (kernel less the identity)(x): the same numbers, in two operations."""
    users = graph.users()
    for layer in identity_kernels(graph):
        node = next(node for node in graph.nodes if node.name == layer.node)
        weight = graph.array(layer.weight).copy()
        weight[(slice(None), 0, *(size // 2 for size in weight.shape[2:]))] -= 1
        graph.change_constant(node, list(node.input).index(layer.weight), weight)
        graph.replace_uses(layer.output, f"{layer.output}_whole", users.get(layer.output, []))
        graph.add("Add", [layer.output, layer.input], f"{layer.output}_whole")


def equalise(graph: Graph) -> None:
    """Scale each channel between a depthwise kernel and the convolution that alone reads it: both need as much."""
    users, layers = graph.users(), weight_layers(graph)
    readers = {layer.node: layer for layer in layers if layer.kind == "convolution"}
    nodes = {node.name: node for node in graph.nodes}
    for layer in (layer for layer in layers if layer.kind == "depthwise"):
        following = users.get(layer.output, [])
        if len(following) != 1 or following[0].name not in readers:
            continue
        first, second = nodes[layer.node], nodes[following[0].name]
        weight, behind = graph.array(first.input[1]), graph.array(second.input[1])
        wide = np.abs(weight).reshape(len(weight), -1).max(1)
        read = np.abs(behind).transpose(1, 0, *range(2, behind.ndim)).reshape(behind.shape[1], -1).max(1)
        factors = np.sqrt(np.maximum(wide, 1e-12) / np.maximum(read, 1e-12))
        shape = (-1,) + (1,) * (weight.ndim - 1)
        graph.change_constant(first, 1, weight / factors.reshape(shape))
        if len(first.input) > 2:
            graph.change_constant(first, 2, graph.array(first.input[2]) / factors)
        graph.change_constant(second, 1, behind * factors.reshape(1, -1, *(1,) * (behind.ndim - 2)))


WAYS: dict[str, Callable[[Graph], None] | None] = {"keep": None, "split": split_identity, "equalise": equalise}


def compare(source: Exportable, tower: Tower, data: Path) -> list[Outcome]:
    """Every way for one tower of a model."""
    spec = TARGETS["onnx"]
    example = probe_pixels(source.preprocess.size) if tower == "image" else probe_ids(source.tokenizer.spec)
    module = fold(tower, source.towers[tower], example)
    job = Job(tower, module, example, source, spec, "int8", load_calibration(data, source), SILENT)
    with plain_attention():
        plain = trace(job.module, example, job.declaration, spec.opset)
    clean(plain)
    names = {layer.name for layer in identity_kernels(Graph(plain))}
    judge = Judge(plain, judged_rows(job), TOLERANCES["int8"].min_cosine)
    return [_outcome(way, change, plain, job, names, judge) for way, change in WAYS.items()]


def _outcome(
    way: str,
    change: Callable[[Graph], None] | None,
    plain: onnx.ModelProto,
    job: Job,
    names: set[str],
    judge: Judge,
) -> Outcome:
    graph = Graph(plain)
    if change is not None:
        change(graph)
    model = graph.finish()
    kernels = [layer for layer in weight_layers(Graph(model)) if layer.name in names]
    finished, report = quantise(model, job)
    kept = [layer.name for layer in report.layers if layer.precision == "fp32"]
    depthwise = {layer.name for layer in weight_layers(Graph(model)) if layer.kind == "depthwise"}
    return Outcome(
        tower=job.tower,
        way=way,
        kernels=len(kernels),
        lost_taps=round(_lost(Graph(model), kernels), 4),
        all_int8_cosine=round(float(judge.cosines(everything(model, job)).min()), 6),
        min_cosine=round(float(judge.cosines(finished).min()), 6),
        kept_layers=len(kept),
        kept_kernels=len(depthwise.intersection(kept)),
        bytes=finished.ByteSize(),
    )


def _taps(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The centre (C,) and the other taps (C, K - 1) of a depthwise kernel."""
    flat = weight.reshape(len(weight), -1)
    middle = flat.shape[1] // 2
    return flat[:, middle], np.delete(flat, middle, 1)


def _lost(graph: Graph, kernels: list[WeightLayer]) -> float:
    """The share of the taps beside the centre that a step of a 64th of the largest rounds to 0."""
    lost = total = 0
    for layer in kernels:
        weight = graph.array(layer.weight)
        _, others = _taps(weight)
        step = np.abs(weight).reshape(len(weight), -1).max(1) / 64
        lost, total = lost + int((np.abs(others) < step[:, None] / 2).sum()), total + others.size
    return lost / total if total else 0.0


def main() -> None:
    """Print what each way gives for the towers of MODEL."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a student folder or run, or open_clip:NAME:TAG")
    parser.add_argument("--data", type=Path, required=True, help="pictures and sentences to quantise by")
    parser.add_argument("--tower", choices=TOWERS, default="image", help="(default: %(default)s)")
    args = parser.parse_args()
    source = load_source(args.model)
    found: dict[str, Any] = {
        "model": source.name,
        "outcomes": [vars(outcome) for outcome in compare(source, args.tower, args.data)],
    }
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
