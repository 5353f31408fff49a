"""How well a model finds things by their names: semantic segmentation from patch embeddings and sentences.

After SAM-CLIP (arXiv 2310.15308, section 4.4): with the CLIP head alone, and with the mask head giving the edges where
there is one. The paper states no rule for the background; here two figures are given, one where words of the background
compete with the classes, and one over the pixels of objects alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clip_edge.console import SILENT, Console
from clip_edge.distill.data.masks import Objects, scene_batches
from clip_edge.distill.data.samples import ClassInfo, DataSet
from clip_edge.distill.data.scenes import COLOURS
from clip_edge.distill.evaluate import UNDETERMINED, Measurable, embed_classes, embed_texts, evenly, measuring
from clip_edge.distill.models.sight import Sight, sight_of
from clip_edge.distill.outlines import prompted_iou
from clip_edge.distill.templates import templates_for
from clip_edge.errors import DataError
from clip_edge.numerics import Floats
from clip_edge.preprocess import Bytes, normalize
from clip_edge.segment import NOTHING, Decode, Frame, Labels, class_scores, frame_of, label_map, refine

BACKGROUND = ("background", *(f"{colour} background" for colour in COLOURS))
BATCH_SIZE = 64


@dataclass
class Confusion:
    """Pixels by true and by found label of C classes; the last row and column are the background."""

    counts: npt.NDArray[np.int64]  # (C + 1, C + 1)

    @classmethod
    def of(cls, classes: int) -> Confusion:
        return cls(np.zeros((classes + 1, classes + 1), np.int64))

    def add(self, truth: Labels, found: Labels) -> None:
        """Two maps of one shape; label -1 is the background."""
        size = len(self.counts)
        pairs = (truth % size).astype(np.int64) * size + found % size  # -1 becomes the last
        self.counts += np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size)

    def ious(self) -> npt.NDArray[np.float64]:
        """(C + 1,): intersection over union over all pictures; NaN for what is never there."""
        both, there = np.diag(self.counts), self.counts.sum(1)
        union = there + self.counts.sum(0) - both
        return np.where(there > 0, both / np.maximum(union, 1), np.nan)


@dataclass
class _Tallies:
    """What is counted for one way of finding things."""

    classes: int
    everywhere: Confusion = field(init=False)
    on_objects: Confusion = field(init=False)

    def __post_init__(self) -> None:
        self.everywhere, self.on_objects = Confusion.of(self.classes), Confusion.of(self.classes)

    def figures(self) -> dict[str, Any]:
        ious = self.everywhere.ious()
        return {
            "miou": float(np.nanmean(ious[:-1])),
            "background_iou": None if np.isnan(ious[-1]) else float(ious[-1]),
            "miou_on_objects": float(np.nanmean(self.on_objects.ious()[:-1])),
        }


def segmentation(
    loaded: Measurable,
    dataset: DataSet,
    *,
    lang: str = "en",
    limit: int | None = None,
    batch_size: int = BATCH_SIZE,
    templates: Sequence[str] = (),
    console: Console = SILENT,
) -> dict[str, Any]:
    """Mean IoU over the classes that occur, found by their names, and of outlines that boxes and points ask for.

    Maps are compared in the square picture that the model sees, at its size. A class counts once however many pixels it
    has; its IoU is over all pictures together. Candidates are all classes of the kind that the pictures show (seen in
    training, or unseen).

    Args:
        limit: measure at most so many pictures, spread evenly over the split.
        templates: sentences with `{}` for the class name, instead of those of the language.

    Returns:
        {task, data, split, lang, images, classes, map: [h, w], clip_head: figures, both_heads: figures or None,
        prompted: as `prompted_iou` or None, skipped}; figures are {miou, background_iou, miou_on_objects}, 0..1.
        `both_heads` and `prompted` are None without a mask head.

    Raises:
        ConfigError: the model shows no map, or single places of it are not in text space.
        DataError: no class names in `lang`, or no picture with a mask that can be read.
    """
    sight = sight_of(loaded.student)
    by_class = candidates(dataset, lang)
    words = list(by_class.values())
    named = embed_classes(loaded, words, tuple(templates) or templates_for(lang), batch_size=batch_size)  # (C, D)
    named = np.concatenate([named, embed_texts(loaded, BACKGROUND)])  # (C + B, D)
    position = {id_: i for i, id_ in enumerate(by_class)}
    ways = {"clip_head": _Tallies(len(words))}
    if sight.masks is not None:
        ways["both_heads"] = _Tallies(len(words))
    skipped: list[dict[str, str]] = []
    images, shape = 0, (0, 0)
    rows = evenly(len(dataset), limit)
    with console.progress("find by name", len(rows), "pictures") as meter:
        for pixels, truths, _ in scene_batches(
            dataset, rows, loaded.preprocess, batch_size, lambda _, objects: true_labels(objects, position), skipped
        ):
            images += len(pixels)
            shape = _count(loaded, pixels, truths, named, ways)
            meter.advance(len(pixels))
    _tell_skipped(dataset, skipped, images, console)
    figures = {way: tally.figures() for way, tally in ways.items()}
    prompted = None
    if sight.masks is not None:
        prompted = prompted_iou(loaded, dataset, limit=limit, batch_size=batch_size, console=console)
    return {
        "task": "segment",
        "data": dataset.name,
        "split": dataset.split,
        "lang": lang or UNDETERMINED,
        "images": images,
        "classes": len(words),
        "map": list(shape),
        "both_heads": None,
        **figures,
        "prompted": prompted,
        "skipped": skipped,
    }


def _tell_skipped(dataset: DataSet, skipped: Sequence[Mapping[str, str]], images: int, console: Console) -> None:
    """Warn of pictures without a mask that can be used, beside `images` that have one; raise DataError for 0."""
    if not images:
        raise DataError(
            f"no picture of {dataset.name} has a mask that can be used",
            where=skipped[0]["key"] if skipped else None,
            hint=f"the first was left out because: {skipped[0]['reason']}" if skipped else None,
        )
    if skipped:
        first, count = skipped[0], images + len(skipped)
        console.warn(f"{len(skipped)} of {count} pictures left out; the first is {first['key']}: {first['reason']}")


def _count(
    loaded: Measurable, pixels: Bytes, truths: Sequence[Labels], named: Floats, ways: dict[str, _Tallies]
) -> tuple[int, int]:
    """Add what is found in pictures (B, S, S, 3) to the tallies; `named` are the words, those of the background last.

    Returns:
        (h, w) of the map.
    """
    frame = frame_of(loaded.preprocess.size, loaded.preprocess.size, loaded.preprocess)
    words = len(BACKGROUND)
    maps, places = _look(loaded, pixels)  # (B, …), (B, D, h, w)
    for row, truth in enumerate(truths):
        scores = class_scores(places[row], named)
        there = truth != NOTHING
        for way, tally in ways.items():
            decode = _decoder(sight_of(loaded.student), maps[row : row + 1]) if way == "both_heads" else None
            tally.everywhere.add(truth, _found(scores, decode, frame, background=words))
            tally.on_objects.add(truth[there], _found(scores[:-words], decode, frame)[there])
    return places.shape[2], places.shape[3]


def candidates(dataset: DataSet, lang: str) -> dict[str, str]:
    """Class id -> name in `lang`, of the classes that the split shows.

    Raises:
        DataError: no class has a name in `lang`.
    """
    kind = "unseen" if dataset.split == "unseen" else "seen"
    classes: list[ClassInfo] = [one for one in dataset.classes if one.split == kind] or list(dataset.classes)
    found = {one.id: one.names.get(lang) or one.names.get("") for one in classes}
    named = {id_: name for id_, name in found.items() if name}
    if not named:
        raise DataError(
            f"no class names in language `{lang}` in {dataset.name}",
            hint="segmentation by names needs classes, as the built-in data set has them",
        )
    return named


def true_labels(objects: Objects, position: dict[str, int]) -> Labels:
    """(S, S): the class of every pixel, -1 for the background; an empty mask is all background.

    Raises:
        DataError: an object of a class that has no `position`.
    """
    truth = np.full(objects.masks.shape[1:], NOTHING, np.int16)
    for mask, id_ in zip(objects.masks, objects.classes, strict=True):
        if id_ not in position:
            raise DataError(f"an object of class `{id_}` has no name among the candidates")
        truth[mask] = position[id_]
    return truth


def _look(loaded: Measurable, pixels: Bytes) -> tuple[torch.Tensor, Floats]:
    """(B, S, S, 3) -> the maps of the pictures, and their places in text space (B, D, h, w)."""
    sight = sight_of(loaded.student)
    with measuring(loaded) as device:
        maps = sight.encode(torch.from_numpy(normalize(pixels, loaded.preprocess)).to(device))
        return maps, sight.places(maps).float().cpu().numpy()


def _decoder(sight: Sight, feature_map: torch.Tensor) -> Decode:
    """The mask head on one picture (1, C, h, w)."""

    def decode(points: Floats, labels: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        assert sight.masks is not None  # its caller looked
        with torch.inference_mode():
            seen = feature_map.expand(len(points), -1, -1, -1)
            asked = (torch.from_numpy(one).to(feature_map.device) for one in (points, labels))
            logits, quality = sight.masks(seen, *asked)
        return logits.float().cpu().numpy(), quality.float().cpu().numpy()

    return decode


def _found(scores: Floats, decode: Decode | None, frame: Frame, *, background: int = 0) -> Labels:
    if decode is None:
        return label_map(scores, frame, background=background)
    return refine(scores, decode, frame, background=background)
