"""The pipeline that a merged student replaces: a mask teacher outlines everything there is, and a CLIP names each crop.

As in SAM's own automatic masks (Kirillov et al. 2023, appendix B): a grid of points asks for masks, the good ones that
are no copies of a better one are kept. What CLIP sees of each is the square around it, with some of what is beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from clip_edge.distill.data.masks import Objects, read_objects
from clip_edge.distill.data.samples import DataSet, Sample
from clip_edge.distill.evaluate import embed_classes, embed_images, embed_texts, evenly
from clip_edge.distill.mask_teacher import outline
from clip_edge.distill.models.checkpoint import LoadedStudent
from clip_edge.distill.segmentation import BACKGROUND, Confusion, candidates, true_labels
from clip_edge.distill.templates import templates_for
from clip_edge.graphs import INSIDE, PADDING
from clip_edge.images import open_image
from clip_edge.numerics import Floats
from clip_edge.preprocess import Bytes, PreprocessSpec, normalize, to_pixels
from clip_edge.segment import NOTHING, Labels, Mask, mask_iou

GRID = 8  # points along each side; SAM takes 32 on pictures of 1,024 pixels
LEAST_QUALITY = 0.7  # of the three masks of a point, as the head estimates it
COPY = 0.7  # two masks with this IoU are one thing
LEAST_AREA, MOST_AREA = 0.002, 0.6  # parts of the picture that can be a thing
CONTEXT = 1.2  # the crop's side, as a multiple of the longer side of the mask's box


def pipeline(namer: LoadedStudent, outliner: LoadedStudent, dataset: DataSet, *, limit: int) -> dict[str, Any]:
    """Mean IoU of things found by their names, as `distill.segmentation` counts it.

    Returns:
        {"crops": mean number for each picture, "miou", "background_iou", "miou_on_objects": 0..1}
    """
    named = candidates(dataset, "en")
    words = list(named.values())
    texts = np.concatenate([embed_classes(namer, words, templates_for("en")), embed_texts(namer, BACKGROUND)])
    position = {id_: i for i, id_ in enumerate(named)}
    everywhere, on_objects, crops = Confusion.of(len(words)), Confusion.of(len(words)), []
    for index in evenly(len(dataset), limit):
        sample = dataset.sample(index)
        truth = true_labels(_objects(sample, outliner), position)
        masks = propose(outliner, to_pixels(open_image(sample.image), outliner.preprocess))
        scores = _scores(namer, sample, masks, texts)  # (M + 1, C + B), the whole picture last
        crops.append(len(masks))
        there = truth != NOTHING
        everywhere.add(truth, painted(masks, scores, len(words), len(truth)))
        on_objects.add(truth[there], painted(masks, scores[:, : len(words)], len(words), len(truth), fill=True)[there])
    ious = everywhere.ious()
    return {
        "crops": float(np.mean(crops)),
        "miou": float(np.nanmean(ious[:-1])),
        "background_iou": float(ious[-1]),
        "miou_on_objects": float(np.nanmean(on_objects.ious()[:-1])),
    }


def propose(outliner: LoadedStudent, pixels: Bytes) -> list[Mask]:
    """(S, S, 3) -> masks (S, S) of things, the best first, none of them a copy of a better one."""
    size, student = pixels.shape[0], outliner.student
    assert student.masks is not None  # the recipe `segment` makes no others
    centres = (np.arange(GRID, dtype=np.float32) + 0.5) / GRID
    points = np.zeros((1, GRID * GRID, 2, 2), np.float32)
    points[0, :, 0] = np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)
    labels = np.tile(np.array([INSIDE, PADDING], np.int64), (1, GRID * GRID, 1))
    with torch.inference_mode():
        seen = student.image.trunk(torch.from_numpy(normalize(pixels[None], outliner.preprocess)))
        logits, quality = outline(student.masks, seen, torch.from_numpy(points), torch.from_numpy(labels))
        full = F.interpolate(logits, (size, size), mode="bilinear", align_corners=False) > 0
    return distinct(full.flatten(0, 1).numpy(), quality.flatten().numpy())


def distinct(masks: npt.NDArray[np.bool_], quality: Floats) -> list[Mask]:
    """Masks (N, S, S) that can be things and are good enough (N,), the best first, without copies."""
    kept: list[Mask] = []
    for index in np.argsort(-quality, kind="stable"):
        mask = masks[index]
        possible = quality[index] >= LEAST_QUALITY and LEAST_AREA <= mask.mean() <= MOST_AREA
        if possible and all(mask_iou(mask, other) < COPY for other in kept):
            kept.append(mask)
    return kept


def _scores(namer: LoadedStudent, sample: Sample, masks: Sequence[Mask], texts: Floats) -> Floats:
    """The cosine of the crop around each mask, and of the whole picture last, with every word: (M + 1, T)."""
    picture = open_image(sample.image)
    square = to_pixels(picture, replace(namer.preprocess, size=min(picture.size)))
    crops = [crop(square, mask) for mask in masks]
    shown = [to_pixels(Image.fromarray(one), namer.preprocess) for one in [*crops, square]]
    scores: Floats = embed_images(namer, np.stack(shown)) @ texts.T
    return scores


def crop(square: Bytes, mask: Mask) -> Bytes:
    """The square of a picture (H, H, 3) around a mask (S, S) of it, moved inwards where it would leave the picture."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    scale = len(square) / len(mask)
    top, bottom, left, right = (scale * value for value in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    side = min(len(square), round(CONTEXT * max(bottom - top, right - left)))
    y, x = (
        min(max(0, round((low + high - side) / 2)), len(square) - side) for low, high in ((top, bottom), (left, right))
    )
    return square[y : y + side, x : x + side]


def painted(masks: Sequence[Mask], scores: Floats, words: int, size: int, *, fill: bool = False) -> Labels:
    """A label for each of `size` × `size` pixels, smaller masks over larger ones; words from `words` on are background.

    `scores` (M + 1, T); with `fill` its last row, of the whole picture, names the pixels that no mask covers.
    """
    best = scores.argmax(1)
    names = np.where(best < words, best, NOTHING).astype(np.int16)
    labels = np.full((size, size), names[-1] if fill else NOTHING, np.int16)
    for index in sorted(range(len(masks)), key=lambda i: -int(masks[i].sum())):
        labels[masks[index]] = names[index]
    return labels


def filled_boxes(dataset: DataSet, spec: PreprocessSpec, *, limit: int) -> float:
    """The mean IoU of objects and their boxes: what a model reaches that fills the box it is asked with."""
    found = []
    for index in evenly(len(dataset), limit):
        sample = dataset.sample(index)
        for mask in read_objects(sample, open_image(sample.image).size, spec).masks:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            found.append(mask.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1)))
    return float(np.mean(found))


def _objects(sample: Sample, outliner: LoadedStudent) -> Objects:
    return read_objects(sample, open_image(sample.image).size, outliner.preprocess)
