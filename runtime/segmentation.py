"""Words and prompts to masks: the encoder runs once for a picture, and heads read its map as often as asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clip_edge.errors import UsageError
from clip_edge.graphs import BOTTOM_RIGHT, INSIDE, OUTSIDE, PADDING, TOP_LEFT, GraphName
from clip_edge.preprocess import Floats
from clip_edge.segment import Box, Frame, Labels, Mask, class_scores, label_map, refine, seen, to_picture

if TYPE_CHECKING:
    from clip_edge.runtime.backends import RunGraph

BACKGROUND = ("background", "an empty background", "nothing")  # words that stand for what no word names
LEAST_POINTS = 2  # of a row of prompts: a box has two


@dataclass(frozen=True)
class View:
    """A picture as the encoder saw it. Give it to several calls in place of the picture: the encoder ran once."""

    feature_map: Floats  # (1, ...)
    frame: Frame
    where: str


@dataclass(frozen=True)
class Prompt:
    """What outlines one thing: a box, points, or both, in pixels of the picture.

    `inside` says for each point whether it lies on the thing; left out, all do.
    """

    points: tuple[tuple[float, float], ...] = ()
    inside: tuple[bool, ...] = ()
    box: Box | None = None

    def __post_init__(self) -> None:
        if not self.points and self.box is None:
            raise UsageError("a prompt needs a point or a box")
        if self.inside and len(self.inside) != len(self.points):
            raise UsageError(f"`inside` must say it of {len(self.points)} points; found {len(self.inside)}")


@dataclass(frozen=True)
class Segmentation:
    """`labels` (H, W): the index in `texts` of the word that fits a pixel best, -1 for none and outside the frame.

    `scores` (T + B, h, w): the cosine of every word, then of every word of the background, at every place of the map.
    """

    texts: tuple[str, ...]
    labels: Labels
    scores: Floats
    frame: Frame

    def share(self, index: int) -> float:
        """The share of the picture's pixels that a word has."""
        return float((self.labels == index).mean())


@dataclass(frozen=True)
class Outline:
    """What a prompt outlines: the best of three masks, and how good the model thinks each of them is.

    `mask` (H, W) bool; `masks` (3, H, W) bool; `iou` (3,) expected intersection over union.
    """

    mask: Mask
    masks: Mask
    iou: Floats


class Segmenter:
    """The graphs for segmentation of one bundle, each opened when it is first needed. Any thread may call."""

    def __init__(self, open_graph: Callable[[GraphName], RunGraph]) -> None:
        self._open = open_graph
        self._runs: dict[GraphName, RunGraph] = {}
        self._lock = threading.Lock()

    def run(self, name: GraphName) -> RunGraph:
        """The graph of that name.

        Raises:
            BundleError: the bundle has none.
        """
        with self._lock:
            if name not in self._runs:
                self._runs[name] = self._open(name)
            return self._runs[name]

    def view(self, pixel_values: Floats, frame: Frame, where: str) -> View:
        """(3, S, S) -> what the heads read."""
        return View(self.run("encoder")({"pixel_values": pixel_values[None]})["feature_map"], frame, where)

    def embed(self, view: View) -> tuple[Floats, Floats]:
        """The embeddings of the picture (D,) and of its places (D, h, w), unit vectors."""
        found = self.run("clip_head")({"feature_map": view.feature_map})
        return found["image_embeds"][0], found["patch_embeds"][0]

    def segment(
        self, view: View, texts: Sequence[str], text_embeds: Floats, *, background: int, refined: bool
    ) -> Segmentation:
        """`text_embeds` (T + B, D): those of `texts`, then those of the `background` words."""
        scores = class_scores(self.embed(view)[1], text_embeds)
        if refined:
            labels = refine(
                scores, lambda points, kinds: self._decode(view, points, kinds), view.frame, background=background
            )
        else:
            labels = label_map(scores, view.frame, background=background)
        return Segmentation(tuple(texts), labels, scores, view.frame)

    def masks(self, view: View, prompts: Sequence[Prompt]) -> list[Outline]:
        """One outline for each prompt.

        Raises:
            UsageError: a prompt lies outside the picture, or outside the part of it that the model sees.
        """
        rows = [_row(prompt, view) for prompt in prompts]
        length = max([LEAST_POINTS, *(len(row) for row in rows)])
        points = np.zeros((len(rows), length, 2), np.float32)
        kinds = np.full((len(rows), length), PADDING, np.int64)
        for i, row in enumerate(rows):
            for j, (x, y, kind) in enumerate(row):
                points[i, j], kinds[i, j] = (x, y), kind
        logits, iou = self._decode(view, points, kinds)
        inside = seen(view.frame)
        outlines = []
        for answers, expected in zip(logits, iou, strict=True):
            masks = (to_picture(answers, view.frame) > 0) & inside
            outlines.append(Outline(masks[int(expected.argmax())], masks, expected))
        return outlines

    def _decode(self, view: View, points: Floats, labels: np.ndarray) -> tuple[Floats, Floats]:
        maps = np.repeat(view.feature_map, len(points), axis=0)
        found = self.run("mask_decoder")({"feature_map": maps, "points": points, "labels": labels})
        return found["mask_logits"], found["iou"]


def _row(prompt: Prompt, view: View) -> list[tuple[float, float, int]]:
    """The points of a prompt in the square input, with what each is."""
    frame = view.frame
    row = []
    if prompt.box is not None:
        row += _corners(prompt.box, view)
    for i, (x, y) in enumerate(prompt.points):
        _check_inside(f"the point {x:g},{y:g}", x, y, view)
        if not frame.sees(x, y):
            left, top, right, bottom = frame.box
            raise UsageError(
                f"the point {x:g},{y:g} lies outside the square that the model sees: "
                f"x {left:g} to {right:g}, y {top:g} to {bottom:g}",
                where=view.where,
                hint="crop the picture around the thing",
            )
        row.append((*frame.to_input(x, y), INSIDE if not prompt.inside or prompt.inside[i] else OUTSIDE))
    return row


def _corners(box: Box, view: View) -> list[tuple[float, float, int]]:
    words = "the box " + ",".join(f"{value:g}" for value in box)
    if not (box[0] < box[2] and box[1] < box[3]):
        raise UsageError(f"{words} is empty", where=view.where, hint="give left,top,right,bottom in pixels")
    for x, y in (box[:2], box[2:]):
        _check_inside(words, x, y, view)
    left, top, right, bottom = view.frame.box
    cut = max(box[0], left), max(box[1], top), min(box[2], right), min(box[3], bottom)
    if not (cut[0] < cut[2] and cut[1] < cut[3]):
        raise UsageError(
            f"{words} lies outside the square that the model sees: x {left:g} to {right:g}, y {top:g} to {bottom:g}",
            where=view.where,
            hint="crop the picture around the thing",
        )
    return [(*view.frame.to_input(*cut[:2]), TOP_LEFT), (*view.frame.to_input(*cut[2:]), BOTTOM_RIGHT)]


def _check_inside(what: str, x: float, y: float, view: View) -> None:
    width, height = view.frame.width, view.frame.height
    if not (0 <= x <= width and 0 <= y <= height):
        raise UsageError(
            f"{what} lies outside the picture, which has {width} × {height} pixels",
            where=view.where,
            hint="count pixels from the top left of the upright picture",
        )
