"""Batches for a mask head: pictures, prompts about objects in them, and the outlines that answer the prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clip_edge.distill.data.loader import read_batches
from clip_edge.distill.data.masks import Labels, Mask, box_prompt, point_prompt, read_objects
from clip_edge.distill.data.samples import DataSet, Problem
from clip_edge.errors import DataError
from clip_edge.images import open_image
from clip_edge.preprocess import Bytes, Floats, PreprocessSpec, normalize, to_pixels


@dataclass(frozen=True)
class PromptSpec:
    """How objects are asked for: `count` prompts about a picture, a box with probability `box_share`, else a point."""

    count: int = 4
    box_share: float = 0.5  # as SAM draws them
    box_jitter: float = 0.1  # standard deviation of a corner, as a part of the box's side
    flip: float = 0.5

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"`count` must be at least 1; found {self.count}")
        for name in ("box_share", "box_jitter", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie in 0..1; found {getattr(self, name)}")


@dataclass(frozen=True)
class PromptBatch:
    """One rank's share of a batch: K prompts for each of B pictures."""

    images: Tensor  # (B, 3, S, S) float32, normalised
    views: Tensor  # (B, T, T, 3) uint8, what the teacher sees; (B, 0) without a teacher
    points: Tensor  # (B, K, 2, 2) x and y in 0..1
    labels: Tensor  # (B, K, 2) int64, see `clip_edge.graphs`
    masks: Tensor  # (B, K, M, M) float32, the share of each place that belongs to the object


def prompt_batches(
    dataset: DataSet,
    *,
    spec: PreprocessSpec,
    view: PreprocessSpec | None,
    prompts: PromptSpec,
    side: int,
    batch_size: int,
    seed: int,
    on_problem: Callable[[Problem], None],
    rank: int,
    world_size: int,
    start_step: int,
    workers: int,
) -> Iterator[PromptBatch]:
    """Endless batches, in the order and with the promises of `loader.make_batches`.

    A picture without a mask, or whose mask shows nothing, is left out and told like one that cannot be read.

    Args:
        view: what the teacher wants to see; None without a teacher.
        side: M, the resolution of the outlines.

    Raises:
        UsageError, DataError: as `make_batches`.
    """
    return read_batches(
        dataset,
        _Reader(dataset, spec, view, prompts, seed),
        _Collate(spec, side),
        batch_size=batch_size,
        seed=seed,
        on_problem=on_problem,
        rank=rank,
        world_size=world_size,
        start_step=start_step,
        workers=workers,
    )


@dataclass(frozen=True)
class _Item:
    pixels: Bytes  # (S, S, 3)
    view: Bytes  # (T, T, 3), or empty
    points: Floats  # (K, 2, 2)
    labels: Labels  # (K, 2)
    masks: Mask  # (K, S, S)


@dataclass(frozen=True)
class _Reader:
    dataset: DataSet
    spec: PreprocessSpec
    view: PreprocessSpec | None
    prompts: PromptSpec
    seed: int

    def __call__(self, epoch: int, index: int) -> _Item:
        sample = self.dataset.sample(index)
        image, rng = open_image(sample.image), np.random.default_rng((self.seed, epoch, index))
        masks = read_objects(sample, image.size, self.spec).masks
        if not len(masks):
            raise DataError("the mask shows no object")
        pixels = to_pixels(image, self.spec)
        view = np.zeros(0, np.uint8) if self.view is None else to_pixels(image, self.view)
        if rng.random() < self.prompts.flip:
            pixels, masks = pixels[:, ::-1], masks[:, :, ::-1]
            view = view[:, ::-1] if view.ndim == 3 else view
        chosen = masks[rng.integers(len(masks), size=self.prompts.count)]  # (K, S, S)
        asked = [self._ask(mask, rng) for mask in chosen]
        points, labels = (np.stack(column) for column in zip(*asked, strict=True))
        return _Item(np.ascontiguousarray(pixels), np.ascontiguousarray(view), points, labels, chosen)

    def _ask(self, mask: Mask, rng: np.random.Generator) -> tuple[Floats, Labels]:
        if rng.random() < self.prompts.box_share:
            return box_prompt(mask, rng, self.prompts.box_jitter)
        return point_prompt(mask, rng)


@dataclass(frozen=True)
class _Collate:
    spec: PreprocessSpec
    side: int

    def __call__(self, items: list[_Item]) -> PromptBatch:
        masks = torch.from_numpy(np.stack([item.masks for item in items])).float()  # (B, K, S, S)
        return PromptBatch(
            images=torch.from_numpy(normalize(np.stack([item.pixels for item in items]), self.spec)),
            views=torch.from_numpy(np.stack([item.view for item in items])),
            points=torch.from_numpy(np.stack([item.points for item in items])),
            labels=torch.from_numpy(np.stack([item.labels for item in items])),
            masks=F.adaptive_avg_pool2d(masks, self.side),  # (B, K, S, S) -> (B, K, M, M)
        )
