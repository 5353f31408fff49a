"""From patch embeddings and words to a label for every pixel, and from a mask decoder's logits to one mask.

As in SAM-CLIP (arXiv 2310.15308, section 4.4): the cosine of every place with every word, taken to the size of the
picture linearly, then the best word. Background is not stated there; here words of the background compete like any
other and give the label -1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clip_edge.graphs import BOTTOM_RIGHT, INSIDE, TOP_LEFT
from clip_edge.numerics import Floats
from clip_edge.preprocess import PreprocessSpec

Labels = npt.NDArray[np.int16]
Mask = npt.NDArray[np.bool_]
NOTHING = -1  # the label of pixels that belong to no word
LEAST_PLACES = 2  # of a region that is refined: a single place is as often wrong as right
MAX_REGIONS = 32  # refined: bounds the time of a picture full of specks
LEAST_OVERLAP = 0.3  # of a mask and the region that prompted it, as IoU: below, the mask is of something else

Box = tuple[float, float, float, float]  # left, top, right, bottom
Decode = Callable[[Floats, npt.NDArray[np.int64]], tuple[Floats, Floats]]
"""Points (B, P, 2) and labels (B, P) -> logits of masks (B, 3, M, M) and the IoU expected of each (B, 3)."""


@dataclass(frozen=True)
class Frame:
    """Which part of a picture of `width` × `height` the model sees: `box`, in pixels, which fills the square input."""

    width: int
    height: int
    box: Box

    def to_input(self, x: float, y: float) -> tuple[float, float]:
        """A place of the picture in pixels as x and y of the square input, 0..1 where the model sees it."""
        left, top, right, bottom = self.box
        return (x - left) / (right - left), (y - top) / (bottom - top)

    def sees(self, x: float, y: float) -> bool:
        """Whether that place of the picture lies in the square input."""
        return all(0 <= value <= 1 for value in self.to_input(x, y))


def frame_of(width: int, height: int, spec: PreprocessSpec) -> Frame:
    """The part of a picture that `preprocess.resize_and_crop` keeps: the centred square, or all of it when squashed.

    The crop is rounded to a pixel of the resized picture there, and is not here.
    """
    if spec.resize == "squash":
        return Frame(width, height, (0.0, 0.0, float(width), float(height)))
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    return Frame(width, height, (left, top, left + short, top + short))


def class_scores(patch_embeds: Floats, text_embeds: Floats) -> Floats:
    """The cosine of every place with every word: (D, h, w) and (T, D), unit vectors -> (T, h, w)."""
    scores: Floats = np.einsum("td,dhw->thw", text_embeds, patch_embeds)
    return scores


def resample(maps: Floats, height: int, width: int) -> Floats:
    """(N, h, w) -> (N, height, width), as `to_picture` where the model sees everything."""
    return to_picture(maps, Frame(width, height, (0.0, 0.0, float(width), float(height))))


def to_picture(maps: Floats, frame: Frame) -> Floats:
    """Maps of the square input (N, h, w) -> (N, height, width) of the picture; `seen` tells where they hold.

    Linear between the centres of places, the edge values beyond them.
    """
    rows = _axis(maps.shape[1], frame.height, frame.box[1::2])
    columns = _axis(maps.shape[2], frame.width, frame.box[::2])
    high: Floats = maps[:, rows[0]] * (1 - rows[2])[:, None] + maps[:, rows[1]] * rows[2][:, None]
    wide: Floats = high[:, :, columns[0]] * (1 - columns[2]) + high[:, :, columns[1]] * columns[2]
    return wide


def seen(frame: Frame) -> Mask:
    """(height, width): the pixels whose centre the model sees."""
    left, top, right, bottom = frame.box
    x, y = np.arange(frame.width) + 0.5, np.arange(frame.height) + 0.5
    inside: Mask = ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))
    return inside


def _axis(places: int, pixels: int, ends: Sequence[float]) -> tuple[np.ndarray, np.ndarray, Floats]:
    """For every pixel along an axis: the places before and behind its centre, and the share of the one behind."""
    at = (np.arange(pixels) + 0.5 - ends[0]) / (ends[1] - ends[0]) * places - 0.5
    at = np.clip(at, 0, places - 1)
    before = np.minimum(at.astype(np.int64), max(0, places - 2))
    behind = np.minimum(before + 1, places - 1)
    return before, behind, (at - before).astype(np.float32)


def label_map(scores: Floats, frame: Frame, *, background: int = 0) -> Labels:
    """The best word for every pixel: (T, h, w) -> (height, width), -1 for the last `background` words and outside."""
    best = np.full((frame.height, frame.width), -np.inf, np.float32)
    labels = np.full(best.shape, NOTHING, np.int16)
    words = len(scores) - background
    for index in range(len(scores)):  # one at a time: all at full size would not fit for many words
        score = to_picture(scores[index : index + 1], frame)[0]
        better = score > best
        best[better] = score[better]
        labels[better] = index if index < words else NOTHING
    labels[~seen(frame)] = NOTHING
    return labels


def refine(scores: Floats, decode: Decode, frame: Frame, *, background: int = 0) -> Labels:
    """`label_map` with edges from the mask decoder: both heads, section 4.4, with prompts of our own choice.

    Every connected region of one word on the map prompts the decoder with its bounding box and its best place; the
    mask that overlaps it most takes its place, or the region stays as it is when none does (IoU below
    `LEAST_OVERLAP`). Where masks overlap the larger logit wins; what no mask covers is background when there are words
    for that, and keeps its word otherwise.
    """
    labels = label_map(scores, frame, background=background)
    winners = scores.argmax(0)  # (h, w)
    regions = [
        (word, region)
        for word in range(len(scores) - background)
        for region in components(winners == word)
        if region.sum() >= LEAST_PLACES
    ]
    regions = sorted(regions, key=lambda item: -int(item[1].sum()))[:MAX_REGIONS]
    if not regions:
        return labels
    prompts = [_prompt(region, scores[word]) for word, region in regions]
    points = np.array(prompts, np.float32)  # (R, 3, 2)
    logits, _ = decode(points, np.tile(np.array([TOP_LEFT, BOTTOM_RIGHT, INSIDE], np.int64), (len(prompts), 1)))
    refined = np.full_like(labels, NOTHING) if background else labels.copy()
    best = np.full(labels.shape, 0.0, np.float32)
    for (word, region), answers in zip(regions, logits, strict=True):
        overlaps = [mask_iou(mask, region) for mask in resample(answers, *region.shape) > 0]
        if max(overlaps) < LEAST_OVERLAP:
            own = to_picture(region[None].astype(np.float32) - 0.5, frame)[0]
            won = (own > 0) & (best <= 0) & seen(frame)
        else:
            own = to_picture(answers[int(np.argmax(overlaps))][None], frame)[0]
            won = (own > best) & seen(frame)
        refined[won] = word
        best[won] = own[won]
    return refined


def _prompt(region: Mask, score: Floats) -> list[tuple[float, float]]:
    """The corners of a region's box, and the centre of its best place, as x and y in 0..1."""
    high, wide = region.shape
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    y, x = np.unravel_index(int(np.where(region, score, -np.inf).argmax()), region.shape)
    first, last = (columns[0] / wide, rows[0] / high), ((columns[-1] + 1) / wide, (rows[-1] + 1) / high)
    return [first, last, ((float(x) + 0.5) / wide, (float(y) + 0.5) / high)]


def components(mask: Mask) -> list[Mask]:
    """The parts of a small map that hang together by their sides, from the top left."""
    left, found = mask.copy(), []
    while left.any():
        part = np.zeros_like(mask)
        part.flat[int(left.argmax())] = True
        while True:
            grown = part.copy()
            grown[1:] |= part[:-1]
            grown[:-1] |= part[1:]
            grown[:, 1:] |= part[:, :-1]
            grown[:, :-1] |= part[:, 1:]
            grown &= left
            if (grown == part).all():
                break
            part = grown
        found.append(part)
        left &= ~part
    return found


def mask_iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks of one shape; 1 when both are empty."""
    union = int((a | b).sum())
    return 1.0 if union == 0 else int((a & b).sum()) / union
