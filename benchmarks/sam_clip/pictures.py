"""Ten scenes with what is found in them by its name: the truth, the CLIP teacher's own patches, the merged student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from clip_edge.distill.data.masks import read_objects
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.evaluate import evenly
from clip_edge.distill.segmentation import BACKGROUND, candidates, true_labels
from clip_edge.distill.templates import templates_for
from clip_edge.images import open_image
from clip_edge.overlay import overlay
from clip_edge.preprocess import to_pixels
from clip_edge.runtime import load
from clip_edge.segment import Labels

SCENES = 10
HEAD_PX, GAP_PX = 18, 8
MOST_NAMES = 4  # under a picture; a map that is wrong everywhere has dozens


def sheet(data: Path, ways: Mapping[str, tuple[Path, bool]], out: Path) -> None:
    """Write a PNG with a row for each way and a column for each scene of the test split; the first row is the truth.

    `ways`: title -> a bundle with graphs for segmentation, and whether the mask decoder gives the edges.
    """
    dataset = open_dataset(data, "test")
    named = candidates(dataset, "en")
    words, position = list(named.values()), {id_: i for i, id_ in enumerate(named)}
    samples = [dataset.sample(index) for index in evenly(len(dataset), SCENES)]
    squares, truths = [], []
    models = {title: (load(bundle), refined) for title, (bundle, refined) in ways.items()}
    spec = next(iter(models.values()))[0].manifest.image.preprocess
    for sample in samples:
        picture = open_image(sample.image)
        whole = replace(spec, size=min(picture.size))
        squares.append(Image.fromarray(to_pixels(picture, whole)))
        truths.append(true_labels(read_objects(sample, picture.size, whole), position))
    rows = {"what is there": truths}
    for title, (model, refined) in models.items():
        with model:
            rows[title] = [
                model.segment(square, words, templates_for("en"), background=BACKGROUND, refined=refined).labels
                for square in squares
            ]
    _joined({title: list(map(_shown, squares, labels, [words] * SCENES)) for title, labels in rows.items()}).save(
        out, "PNG", optimize=True
    )


def _shown(picture: Image.Image, labels: Labels, words: Sequence[str]) -> Image.Image:
    """The picture with the names that take most of it."""
    present, counts = np.unique(labels[labels >= 0], return_counts=True)
    most = present[np.argsort(-counts, kind="stable")][:MOST_NAMES].tolist()
    own = np.full_like(labels, -1)
    for place, index in enumerate(most):
        own[labels == index] = place
    return overlay(picture, own, [words[index] for index in most])


def _joined(rows: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """Pictures side by side, each row under its title."""
    width = max(sum(picture.width + GAP_PX for picture in row) for row in rows.values())
    heights = {title: HEAD_PX + GAP_PX + max(picture.height for picture in row) for title, row in rows.items()}
    joined = Image.new("RGB", (width, sum(heights.values())), "white")
    pen, top = ImageDraw.Draw(joined), 0
    for title, row in rows.items():
        pen.text((GAP_PX // 2, top + 2), title, fill="black")
        left = 0
        for picture in row:
            joined.paste(picture, (left, top + HEAD_PX))
            left += picture.width + GAP_PX
        top += heights[title]
    return joined
