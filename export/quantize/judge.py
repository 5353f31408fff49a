"""How near a graph stays to its fp32 form, and the fewest layers to keep so that it stays near enough."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import onnx

from clip_edge.console import Console
from clip_edge.errors import ExportError
from clip_edge.export.quantize.ranges import open_graph
from clip_edge.export.rows import AT_ONCE, Rows
from clip_edge.graphs import MASK_LOGITS
from clip_edge.numerics import Doubles, Floats, cosine_rows
from clip_edge.runtime.verify_graphs import MIN_MASK_IOU
from clip_edge.segment import mask_iou

FOCUS = 12  # rows on which single layers are compared: those on which the first draft was worst
ROUNDS = 8  # of choosing, each with more rows; after them layers are kept one by one
TRIES = 48  # of giving kept layers back, in each round
RUNS = 64  # of neighbouring layers, ranked together before single ones: bounds the time of a deep tower
MARGIN = 0.0015  # above the tolerance: another processor rounds some sums the other way
MARGIN_SHARE = 0.25  # of what the tolerance allows: the most that the margin takes

Run = Callable[[Rows], list[Floats]]  # rows -> outputs
Draft = onnx.ModelProto | Run  # a graph, or what computes as it would
Passes = Callable[[Collection[str]], bool]  # layers that keep the higher precision -> whether that is enough
Build = Callable[[Collection[str]], Draft]  # layers in the lower precision -> draft


class Judge:
    """What fp32 gives for rows, and how near a draft comes to it. `fuse` as in `open_graph`."""

    def __init__(self, model: onnx.ModelProto, rows: Rows, tolerance: float, *, fuse: bool = True) -> None:
        """`tolerance` is the smallest cosine that will be allowed."""
        self.rows = rows
        self.fuse = fuse
        self.tolerance = tolerance
        self.goal = tolerance + min(MARGIN, MARGIN_SHARE * (1 - tolerance))
        self.reference = embed(model, rows)
        self._masks = [value.name for value in model.graph.output].index(MASK_LOGITS) if has_masks(model) else None
        self._focus = np.arange(0)

    def cosines(self, model: Draft) -> Doubles:
        """The cosine of each row to fp32, the smallest of all outputs; a row with NaN has -1."""
        return self._cosines(embed(model, self.rows, fuse=self.fuse), np.arange(len(self.rows)))

    def scores(self, model: Draft) -> Doubles:
        """As `cosines`, and no more than the masks are worth: one whose IoU is at its limit, the tolerance."""
        return self._scores(model, np.arange(len(self.rows)))

    def focus(self, scores: Doubles) -> None:
        """From now on `focused` and `holds` look at the worst rows, and then at those that they look at already."""
        worst = np.argsort(scores, kind="stable")[:FOCUS]
        self._focus = np.concatenate([worst, np.setdiff1d(self._focus, worst)])

    def focused(self, model: Draft) -> float:
        """The smallest score of the rows in focus."""
        return float(self._scores(model, self._focus).min())

    def holds(self, model: Draft) -> bool:
        """Whether every row in focus reaches the goal; the first that does not ends the search."""
        run = opened(model, fuse=self.fuse)
        parts = range(0, len(self._focus), AT_ONCE)
        return all(self._scores(run, self._focus[start : start + AT_ONCE]).min() >= self.goal for start in parts)

    def why_kept(self, cost: float) -> str:
        """The words for a layer that keeps its precision: what it alone costs."""
        return f"kept: alone it costs {cost:.4f} of cosine" + (" or mask IoU" if self._masks is not None else "")

    def _scores(self, model: Draft, chosen: np.ndarray) -> Doubles:
        found = embed(model, self.rows[chosen], fuse=self.fuse)
        cosines = self._cosines(found, chosen)
        if self._masks is None:
            return cosines
        masks = worth_of_masks(found[self._masks], self.reference[self._masks][chosen], self.tolerance)
        return np.minimum(cosines, masks)

    def _cosines(self, found: list[Floats], chosen: np.ndarray) -> Doubles:
        pairs = zip(found, self.reference, strict=True)
        smallest = np.min([flat_cosines(have, want[chosen]) for have, want in pairs], axis=0)
        return np.where(np.isfinite(smallest), smallest, -1.0)


def has_masks(model: onnx.ModelProto) -> bool:
    """Whether masks leave the graph."""
    return any(value.name == MASK_LOGITS for value in model.graph.output)


def flat_cosines(found: Floats, expected: Floats) -> Doubles:
    """(N, ...) twice -> (N,): the cosine of each row, a map taken as one vector; NaN where a value is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        return cosine_rows(found.reshape(len(found), -1), expected.reshape(len(expected), -1))


def worth_of_masks(found: Floats, expected: Floats, tolerance: float) -> Doubles:
    """Logits (N, 3, M, M) twice -> (N,): the least IoU of the masks of a row, scaled as a cosine.

    At `MIN_MASK_IOU` it is `tolerance`.
    """
    pairs = zip(found > 0, expected > 0, strict=True)
    overlaps = np.array([min(map(mask_iou, have, want)) for have, want in pairs])
    worth: Doubles = 1 - (1 - tolerance) / (1 - MIN_MASK_IOU) * (1 - overlaps)
    return worth


def opened(model: Draft, *, fuse: bool = True) -> Run:
    """What gives each output for rows, (N, ...). `fuse` as in `open_graph`."""
    if not isinstance(model, onnx.ModelProto):
        return model
    session = open_graph(model, fuse=fuse)

    def run(rows: Rows) -> list[Floats]:
        parts = [session.run(None, part) for part in rows.batches()]
        return [np.concatenate(values) for values in zip(*parts, strict=True)]

    return run


def embed(model: Draft, rows: Rows, *, fuse: bool = True) -> list[Floats]:
    """Each output for `rows`, (N, ...)."""
    return opened(model, fuse=fuse)(rows)


def choose_kept(
    candidates: Sequence[str],
    build: Build,
    judge: Judge,
    console: Console,
    *,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """The fewest layers that must keep the higher precision, each with what it alone costs (`Judge.scores`).

    Layers are ranked by the cosine that each alone loses on the worst rows, for each of its weights where their number
    is known (`sizes`); a bisection finds how many of the worst to keep, and those are given back without which the rest
    holds. Where other rows are now the worst, they are looked at too, and the choice is made again. A deep tower is
    ranked by runs of neighbouring layers, and only the worst of them layer by layer.

    Raises:
        ExportError: even with every layer kept the tolerance is missed.
    """
    scores = judge.scores(build(candidates))
    if scores.min() >= judge.goal:
        return {}
    judge.focus(scores)

    def rank(groups: Sequence[Sequence[str]]) -> list[float]:
        costs = []
        with console.progress("ranking layers", total=len(groups), unit="groups of layers") as meter:
            for group in groups:
                costs.append(1.0 - judge.focused(build(group)))
                meter.advance()
        return costs

    def passes(kept: Collection[str]) -> bool:
        return judge.holds(build([name for name in candidates if name not in kept]))

    costs, shared = _costs(candidates, rank, passes)
    worth = {name: cost / (sizes[name] if sizes else 1) for name, cost in (shared | costs).items()}
    order = sorted(candidates, key=lambda name: -worth[name])
    for _ in range(ROUNDS):
        kept = _give_back(_fewest([[name] for name in order], passes), passes)
        scores = judge.scores(build([name for name in candidates if name not in kept]))
        if scores.min() >= judge.goal:
            break
        judge.focus(scores)
    while scores.min() < judge.goal:
        rest = [name for name in order if name not in kept]
        if not rest:
            raise ExportError(
                "no layer can be quantised within the tolerance", hint="choose fp16, or train the student longer"
            )
        kept = [*kept, rest[0]]
        scores = judge.scores(build(rest[1:]))
    missing = [name for name in kept if name not in costs]
    costs.update(zip(missing, rank([[name] for name in missing]), strict=True))
    return {name: costs[name] for name in kept}


def _costs(
    candidates: Sequence[str], rank: Callable[[Sequence[Sequence[str]]], list[float]], passes: Passes
) -> tuple[dict[str, float], dict[str, float]]:
    """What layers cost alone: of the layers of the worst runs; and of all, as their share of what their run costs."""
    length = -(-len(candidates) // RUNS)
    runs = [candidates[start : start + length] for start in range(0, len(candidates), length)]
    shared = {name: cost / length for run, cost in zip(runs, rank(runs), strict=True) for name in run}
    if length == 1:
        return dict(shared), shared
    runs.sort(key=lambda run: -shared[run[0]])
    worst = _fewest(runs, passes)
    return dict(zip(worst, rank([[name] for name in worst]), strict=True)), shared


def _fewest(groups: Sequence[Sequence[str]], passes: Passes) -> list[str]:
    """The layers of the shortest start of `groups` that passes; more kept layers never hurt, up to rounding."""

    def start(count: int) -> list[str]:
        return [name for group in groups[:count] for name in group]

    return start(1 + bisect_left(range(1, len(groups)), True, key=lambda count: passes(start(count))))


def _give_back(kept: list[str], passes: Passes) -> list[str]:
    """Leave out what the rest holds without: half of the list at a time, then quarters, from its end."""
    tries = 0
    size = len(kept) // 2
    while size >= 1 and tries < TRIES:
        end = len(kept)
        while end > 0 and tries < TRIES:
            start = max(0, end - size)
            others = kept[:start] + kept[end:]
            tries += 1
            if passes(others):
                kept = others
            end = start
        size //= 2
    return kept
