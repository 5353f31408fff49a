"""How near a graph stays to its fp32 form, and the fewest layers to keep so that it stays near enough."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import onnx

from clip_edge.console import Console
from clip_edge.errors import ExportError
from clip_edge.export.quantize.ranges import ROWS, open_graph
from clip_edge.numerics import Doubles, Floats, cosine_rows

FOCUS = 12  # rows on which single layers are compared: those on which the first draft was worst
TRIES = 24  # of giving kept layers back
RUNS = 64  # of neighbouring layers, ranked together before single ones: bounds the time of a deep tower
MARGIN = 0.0015  # above the tolerance: another processor rounds some sums the other way

Draft = onnx.ModelProto | Callable[[np.ndarray], Floats]  # a graph, or what computes as it would: rows -> embeddings
Build = Callable[[Collection[str]], Draft]  # layers in the lower precision -> draft


class Judge:
    """The fp32 embeddings of rows, and cosines to them. `fuse` as in `open_graph`."""

    def __init__(self, model: onnx.ModelProto, rows: np.ndarray, *, fuse: bool = True) -> None:
        self.rows = rows
        self.fuse = fuse
        self.reference = embed(model, rows)
        self._focus = np.arange(len(rows))

    def cosines(self, model: Draft) -> Doubles:
        """The cosine of each row to fp32; a row with NaN has -1."""
        return self._cosines(model, np.arange(len(self.rows)))

    def focus(self, cosines: Doubles) -> None:
        """Look at the worst rows only from now on."""
        self._focus = np.argsort(cosines, kind="stable")[:FOCUS]

    def focused(self, model: Draft) -> float:
        """The smallest cosine of the rows in focus."""
        return float(self._cosines(model, self._focus).min())

    def _cosines(self, model: Draft, chosen: np.ndarray) -> Doubles:
        with np.errstate(invalid="ignore", over="ignore"):
            found = cosine_rows(embed(model, self.rows[chosen], fuse=self.fuse), self.reference[chosen])
        return np.where(np.isfinite(found), found, -1.0)


def embed(model: Draft, rows: np.ndarray, *, fuse: bool = True) -> Floats:
    """The embeddings of `rows`, or their maps in one row each: (N, ...) -> (N, D). `fuse` as in `open_graph`."""
    if not isinstance(model, onnx.ModelProto):
        return model(rows).reshape(len(rows), -1)
    session = open_graph(model, fuse=fuse)
    (source,) = (item.name for item in session.get_inputs())
    parts = [session.run(None, {source: rows[start : start + ROWS]})[0] for start in range(0, len(rows), ROWS)]
    return np.concatenate(parts).reshape(len(rows), -1)


def choose_kept(
    candidates: Sequence[str], build: Build, judge: Judge, tolerance: float, console: Console
) -> dict[str, float]:
    """The fewest layers that must keep the higher precision, each with what it alone costs in cosine.

    Runs of neighbouring layers are ranked by the cosine that each one alone loses on the worst rows, and a bisection
    finds how many of the worst to keep; their layers are ranked in the same way one by one, and those are given back
    without which the rest holds.

    Raises:
        ExportError: even with every layer kept the tolerance is missed.
    """
    goal = tolerance + MARGIN
    cosines = judge.cosines(build(candidates))
    if cosines.min() >= goal:
        return {}
    judge.focus(cosines)

    def rank(groups: Sequence[Sequence[str]]) -> list[float]:
        costs = []
        with console.progress("ranking layers", total=len(groups), unit="groups of layers") as meter:
            for group in groups:
                costs.append(1.0 - judge.focused(build(group)))
                meter.advance()
        return costs

    def passes(kept: Collection[str]) -> bool:
        return judge.focused(build([name for name in candidates if name not in kept])) >= goal

    length = -(-len(candidates) // RUNS)
    runs = [candidates[start : start + length] for start in range(0, len(candidates), length)]
    if length > 1:
        runs = _bisect(_costliest(runs, rank(runs)), passes)
    singles = [name for run in runs for name in run]
    costs = dict(zip(singles, rank([[name] for name in singles]), strict=True))
    order = sorted(singles, key=lambda name: -costs[name])
    kept = _give_back([name for run in _bisect([[name] for name in order], passes) for name in run], passes)
    while judge.cosines(build([name for name in candidates if name not in kept])).min() < goal:
        rest = [name for name in [*order, *candidates] if name not in kept]
        if not rest:
            raise ExportError(
                "no layer can be quantised within the tolerance", hint="choose fp16, or train the student longer"
            )
        kept = [*kept, rest[0]]
    missing = [name for name in kept if name not in costs]
    costs.update(zip(missing, rank([[name] for name in missing]), strict=True))
    return {name: costs[name] for name in kept}


def _costliest(runs: Sequence[Sequence[str]], costs: Sequence[float]) -> list[Sequence[str]]:
    return [runs[index] for index in np.argsort(-np.array(costs), kind="stable")]


def _bisect(order: Sequence[Sequence[str]], passes: Callable[[Collection[str]], bool]) -> list[Sequence[str]]:
    """The shortest start of `order` that passes; more kept layers never hurt, up to rounding."""
    fails, holds = 0, len(order)
    while holds - fails > 1:
        middle = (fails + holds) // 2
        if passes([name for run in order[:middle] for name in run]):
            holds = middle
        else:
            fails = middle
    return list(order[:holds])


def _give_back(kept: list[str], passes: Callable[[Collection[str]], bool]) -> list[str]:
    """Leave out what the rest holds without: half of the list at a time, then quarters, the least costly first."""
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
