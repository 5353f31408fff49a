"""The proof that the graphs for segmentation give what PyTorch gave: each from the reference of the one before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clip_edge.bundle import Bundle
from clip_edge.golden import Golden
from clip_edge.golden_graphs import GOLDEN_GRAPHS, PIXELS, read_graph_golden
from clip_edge.graphs import Graph
from clip_edge.numerics import TOLERANCES, cosine_rows
from clip_edge.preprocess import Floats, normalize
from clip_edge.runtime.backends import BACKENDS, Options, open_graph
from clip_edge.segment import mask_iou

MIN_MASK_IOU = 0.99  # of the masks that thresholded logits give: an edge moves by less than one pixel in a hundred
MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class GraphCheck:
    """One graph against the reference. `problem` says in words why it failed, or is null."""

    graph: str
    target: str
    precision: str
    path: str
    cases: int
    min_cosine: float  # of any output, each picture's values taken as one vector
    mean_cosine: float
    max_abs: float
    tolerance: float
    min_mask_iou: float | None  # null where no masks leave the graph
    problem: str | None

    @property
    def passed(self) -> bool:
        """Whether every golden picture is near enough."""
        return self.problem is None


def check_graphs(
    backend: str, bundle: Bundle, golden: Golden, precision: str | None, options: Options
) -> tuple[GraphCheck, ...]:
    """Every graph that `backend` can run, with a `precision` only those that have it.

    Raises:
        BundleError: the references are damaged, or a graph cannot be loaded.
    """
    row = BACKENDS[backend]
    graphs = [
        item for item in bundle.manifest.graphs if item.target in row.targets and precision in (None, item.precision)
    ]
    if not row.graphs or not graphs:
        return ()
    data = bundle.read(GOLDEN_GRAPHS, MAX_BYTES)
    reference = read_graph_golden(data, bundle.manifest, bundle.folder / GOLDEN_GRAPHS)
    pixels = normalize(golden.pixels[: reference.cases], bundle.manifest.image.preprocess)
    values = {**reference.tensors, PIXELS: pixels}
    return tuple(_check(backend, bundle, graph, values, options) for graph in graphs)


def _check(
    backend: str, bundle: Bundle, graph: Graph, values: Mapping[str, np.ndarray], options: Options
) -> GraphCheck:
    run = open_graph(backend, bundle, graph, options)
    found = run(values)
    cosines, largest = [], 0.0
    with np.errstate(invalid="ignore", over="ignore"):  # NaN is judged below
        for name, value in found.items():
            cases = len(value)
            cosines.append(cosine_rows(value.reshape(cases, -1), values[name].reshape(cases, -1)))
            largest = max(largest, float(np.abs(value.astype(np.float64) - values[name]).max()))
    all_cosines = np.concatenate(cosines)
    iou = _mask_iou(found["mask_logits"], values["mask_logits"]) if "mask_logits" in found else None
    tolerance = TOLERANCES[graph.precision].min_cosine
    finite = bool(np.isfinite(all_cosines).all())
    return GraphCheck(
        graph=graph.graph,
        target=graph.target,
        precision=graph.precision,
        path=graph.path,
        cases=cases,
        min_cosine=round(float(all_cosines.min()), 9) if finite else -1.0,
        mean_cosine=round(float(all_cosines.mean()), 9) if finite else -1.0,
        max_abs=round(largest, 9) if np.isfinite(largest) else -1.0,
        tolerance=tolerance,
        min_mask_iou=iou,
        problem=_problem(all_cosines, tolerance, iou),
    )


def _problem(cosines: np.ndarray, tolerance: float, iou: float | None) -> str | None:
    if not np.isfinite(cosines).all():
        return "NaN or infinity"
    if cosines.min() < tolerance:
        return f"cosine {cosines.min():.6f} on a golden picture, at least {tolerance} expected"
    if iou is not None and iou < MIN_MASK_IOU:
        return f"mask IoU {iou:.4f} on a golden picture, at least {MIN_MASK_IOU} expected"
    return None


def _mask_iou(found: Floats, expected: Floats) -> float:
    """The smallest over all masks (K, 3, M, M) of logits."""
    pairs = zip(found.reshape(-1, *found.shape[2:]) > 0, expected.reshape(-1, *expected.shape[2:]) > 0, strict=True)
    return round(min(mask_iou(a, b) for a, b in pairs), 6)
