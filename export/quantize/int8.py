"""int8 for CPUs: which layers, in which scheme, on whose data; and the report of what it cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from clip_edge.export.calibration import judged_rows, measured_rows
from clip_edge.export.job import Job
from clip_edge.export.quantize.graph import Graph, WeightLayer, weight_layers
from clip_edge.export.quantize.judge import Judge, choose_kept
from clip_edge.export.quantize.layers import Loss, Rounded, losses
from clip_edge.export.quantize.qdq import Scheme, insert_qdq, quantise_rows, quantised_values
from clip_edge.export.quantize.ranges import Method, Range, Values, choose_range, observe
from clip_edge.export.quantize.tables import byte_table
from clip_edge.export.rewrite import add_biases, fold_factors, fold_transposes, replace_gelu
from clip_edge.export.rows import Rows
from clip_edge.numerics import TOLERANCES
from clip_edge.quantization import SCHEMA, Layer, Machine, Quantization

# x86 without VNNI adds pairs of products in 16 bits: 2 * 255 * 64 just fits, 2 * 255 * 127 saturates silently.
# VNNI and Arm's dot product add in 32 bits: 64 steps are as quick there, and twice as many lose less.
PORTABLE = Scheme("uint8", symmetric=False, weight_max=64, float_bias=False, outputs=frozenset({"Conv"}))
WIDE = replace(PORTABLE, weight_max=127)
SCHEMES: dict[Machine, Scheme] = {"any": PORTABLE, "x86": PORTABLE, "x86-vnni": WIDE, "arm": WIDE}
RIGHT_ON: dict[Machine, str] = {
    "any": "right with and without VNNI, and on Arm",
    "x86": "right with and without VNNI, and on Arm",
    "x86-vnni": "for x86 with VNNI; without it sums saturate and the embedding is another",
    "arm": "for Arm with dot product; on x86 without VNNI sums saturate and the embedding is another",
}
METHODS: tuple[Method, ...] = ("max", "percentile", "mse")


@dataclass(frozen=True)
class Way:
    """How ranges are chosen, and whether biases take back what 8 bits add to the mean of a layer's outputs (Nagel et
    al. 2019, section 4.2, measured on data). Which is best differs: each is tried."""

    method: Method
    corrected: bool

    def __str__(self) -> str:
        return f"{self.method}, biases corrected" if self.corrected else self.method


WAYS = tuple(Way(method, corrected) for method in METHODS for corrected in (False, True))
SPARE = 0.0015  # of cosine, beside the margin: a trained student lost 0.6 points of R@1 without it, 0.4 with it
LOSS_ROWS = 32  # the first of those that ranges are measured on: pictures and sentences of the user
SMALLEST = 16  # inputs or outputs: below, a layer has no speed to gain
SWITCHES = frozenset({"Sigmoid", "HardSigmoid"})  # what ends a squeeze-and-excite branch
BRANCH = frozenset({"Conv", "Relu", "Clip", "Mul", "Sigmoid", "Add", "BatchNormalization", "Gelu"})
POOLS = frozenset({"ReduceMean", "GlobalAveragePool"})


def quantise(model: onnx.ModelProto, job: Job) -> tuple[onnx.ModelProto, Quantization]:
    """The int8 form of an fp32 graph, and its report.

    Raises:
        ExportError: weights or activations that are not finite.
    """
    assert job.calibration is not None  # `refuse_unmeasured` saw to it
    draft, judge, way = _begin(model, job)
    sizes = {layer.name: layer.size for layer in draft.layers}
    kept = choose_kept(draft.candidates, lambda chosen: draft.build(chosen, way), judge, job.console, sizes=sizes)
    chosen = [name for name in draft.candidates if name not in kept]
    finished = draft.build(chosen, way)
    largest = draft.scheme.weight_max
    return finished, Quantization(
        schema=SCHEMA,
        precision="int8",
        scheme=f"activations uint8, one range each ({way}); weights int8 in -{largest}..{largest}, one scale for "
        f"each output channel: {RIGHT_ON[job.machine]}",
        calibration_images=len(job.calibration.pixels),
        calibration_texts=len(job.calibration.input_ids),
        min_cosine=round(float(judge.cosines(finished).min()), 6),
        layers=tuple(draft.report({name: judge.why_kept(cost) for name, cost in kept.items()}, way)),
        machine=job.machine,
    )


def everything(model: onnx.ModelProto, job: Job) -> onnx.ModelProto:
    """`model` with every layer in 8 bits that may be, whatever it costs: what `quantise` starts from."""
    draft, _, way = _begin(model, job)
    return draft.build(draft.candidates, way)


def _begin(model: onnx.ModelProto, job: Job) -> tuple[_Draft, Judge, Way]:
    """The graph prepared, who judges it, and the best way to round it."""
    assert job.calibration is not None
    prepared = Graph(model)
    fold_transposes(prepared)
    add_biases(prepared)  # first: it asks for shapes, which are known in the operation set of the trace
    replace_gelu(prepared)
    fold_factors(prepared)
    base = prepared.finish(job.target.opset_of("int8"))
    draft = _Draft(base, measured_rows(job, job.calibration), job)
    judge = Judge(base, judged_rows(job), TOLERANCES["int8"].min_cosine + SPARE)
    return draft, judge, max(WAYS, key=lambda way: judge.scores(draft.build(draft.candidates, way)).min())


class _Draft:
    """A graph on its way to int8: what its activations hold, and which of its layers may change."""

    def __init__(self, base: onnx.ModelProto, rows: Rows, job: Job) -> None:
        self.base = base
        self.rows = rows
        self.scheme = SCHEMES[job.machine]
        self.graph = Graph(base)
        self.layers = weight_layers(self.graph)
        branches = squeeze_branches(self.graph)
        self.fixed = {layer.name: why for layer in self.layers if (why := self._why_fixed(layer, branches))}
        self.candidates = [
            layer.name for layer in self.layers if layer.name not in self.fixed and layer.kind != "embedding"
        ]
        values = quantised_values(base, self.candidates, self.scheme)
        self.values: dict[str, Values] = observe(base, values, rows, console=job.console)
        self._ranges: dict[Method, dict[str, Range]] = {}
        self._losses: dict[Method, dict[str, Loss]] = {}

    def _why_fixed(self, layer: WeightLayer, branches: Collection[str]) -> str | None:
        shape = self.graph.constants[layer.weight].dims
        if layer.kind == "grouped":
            return "grouped convolution: runtimes have no 8-bit kernel for it"
        if layer.node in branches:
            return "squeeze-and-excite branch: sensitive, and too small to gain"
        if layer.kind == "embedding":
            return "too small to gain" if shape[0] < SMALLEST else None
        if layer.kind != "depthwise" and min(shape[0], shape[1]) < SMALLEST:
            return None if layer.op == "Conv" and shape[1] == 3 else "too small to gain"
        return None

    def ranges(self, method: Method) -> dict[str, Range]:
        """Activation -> range. Chosen once for a method: a draft is built for every layer that is ranked."""
        if method not in self._ranges:
            self._ranges[method] = {name: choose_range(values, method) for name, values in self.values.items()}
        return self._ranges[method]

    def losses(self, method: Method) -> dict[str, Loss]:
        """Layer -> what 8 bits do to it alone, of those that may change."""
        if method not in self._losses:
            ranges = self.ranges(method)
            rounded = [
                Rounded(layer, self._rounded(layer), None if layer.kind == "embedding" else ranges[layer.input])
                for layer in self.layers
                if layer.name not in self.fixed
            ]
            self._losses[method] = losses(self.base, rounded, self.rows[:LOSS_ROWS])
        return self._losses[method]

    def build(self, chosen: Collection[str], way: Way) -> onnx.ModelProto:
        """The graph with `chosen` layers, and the embedding tables, in 8 bits."""
        shifts = {}
        if way.corrected:
            shifts = {name: loss.shift for name, loss in self.losses(way.method).items() if loss.shift is not None}
        graph = Graph(insert_qdq(self.base, chosen, self.ranges(way.method), self.scheme, shifts))
        for layer in weight_layers(graph):
            if layer.kind == "embedding" and layer.name not in self.fixed:
                byte_table(graph, layer)
        return graph.finish()

    def report(self, kept: Mapping[str, str], way: Way) -> list[Layer]:
        """Every layer, with what it is and what it would lose."""
        known = self.losses(way.method)
        ratios = {name: loss.snr_db(corrected=way.corrected) for name, loss in known.items()}
        found = []
        for layer in self.layers:
            high = layer.name in kept or layer.name in self.fixed
            reason = kept.get(layer.name) or self.fixed.get(layer.name, "chosen")
            precision, size_bytes = ("fp32", 4 * layer.size) if high else ("int8", layer.size)
            found.append(Layer(layer.name, layer.op, precision, reason, ratios.get(layer.name), size_bytes))
        return found

    def _rounded(self, layer: WeightLayer) -> np.ndarray:
        largest = 127 if layer.kind == "embedding" else self.scheme.weight_max
        whole, scales = quantise_rows(self.graph.array(layer.weight), layer.axis, largest, layer.name)
        shape = [-1 if i == layer.axis else 1 for i in range(whole.ndim)]
        widened: np.ndarray = whole * scales.reshape(shape)
        return widened


def squeeze_branches(graph: Graph) -> set[str]:
    """The nodes between a pooling and the sigmoid that scales channels by it (Hu et al. 2018)."""
    makers = graph.makers()
    found: set[str] = set()
    for switch in (node for node in graph.nodes if node.op_type in SWITCHES):
        path: list[str] = []
        node = makers.get(switch.input[0])
        while node is not None and node.op_type in BRANCH:
            path.append(node.name)
            node = makers.get(node.input[0])
        if node is not None and node.op_type in POOLS:
            found.update(path)
    return found
