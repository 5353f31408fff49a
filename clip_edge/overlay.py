"""Pictures that show what was segmented: colours over the picture, edges in full colour, and a legend below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from clip_edge.preprocess import Bytes
from clip_edge.segment import Labels, Mask

# Okabe and Ito 2008: eight colours that colour-blind people tell apart, without black and grey.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
STRENGTH = 0.5  # of a colour over the picture
LINE_PX, SWATCH_PX = 18, 12  # of the legend
LEAST_WIDTH = 240  # of a picture with a legend: words of a usual length fit


def overlay(picture: Image.Image, labels: Labels, names: Sequence[str]) -> Image.Image:
    """The picture with a colour for every name over its pixels, edges drawn, and the names below.

    `labels` (H, W) are indices of `names`; -1 shows the picture as it is. Small pictures are enlarged by whole factors.
    """
    factor = max(1, -(-LEAST_WIDTH // picture.width))
    labels = labels.repeat(factor, 0).repeat(factor, 1)
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    pixels: Bytes = np.asarray(picture, np.uint8).copy()
    for index in range(len(names)):
        colour = np.array(COLOURS[index % len(COLOURS)], np.float32)
        mask = labels == index
        pixels[mask] = ((1 - STRENGTH) * pixels[mask] + STRENGTH * colour).astype(np.uint8)
        pixels[_edges(mask)] = colour.astype(np.uint8)
    shown = Image.new("RGB", (picture.width, picture.height + LINE_PX * len(names)), "white")
    shown.paste(Image.fromarray(pixels), (0, 0))
    pen = ImageDraw.Draw(shown)
    for index, name in enumerate(names):
        top = picture.height + LINE_PX * index + (LINE_PX - SWATCH_PX) // 2
        pen.rectangle((4, top, 4 + SWATCH_PX, top + SWATCH_PX), fill=COLOURS[index % len(COLOURS)])
        pen.text((10 + SWATCH_PX, top), name, fill="black")
    return shown


def _edges(mask: Mask) -> Mask:
    """The pixels of a mask with a neighbour outside of it."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    edges: Mask = mask & ~inner
    return edges
