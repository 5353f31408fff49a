"""Batches of prompts on real scenes: what is asked for is what the outline shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from clip_edge.distill.data.prompts import PromptBatch, PromptSpec, prompt_batches
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.samples import Problem
from clip_edge.errors import DataError
from clip_edge.graphs import INSIDE, PADDING, TOP_LEFT
from clip_edge.preprocess import PreprocessSpec

SPEC = PreprocessSpec(48)
THREE = PromptSpec(count=3)


def batches(data: Path, prompts: PromptSpec = THREE, **changes: Any) -> Iterator[PromptBatch]:
    settings: dict[str, Any] = {
        "spec": SPEC,
        "view": None,
        "side": 24,
        "batch_size": 8,
        "seed": 0,
        "on_problem": lambda problem: None,
        "rank": 0,
        "world_size": 1,
        "start_step": 0,
        "workers": 0,
    }
    return prompt_batches(open_dataset(data, "train"), prompts=prompts, **settings | changes)


def test_shapes(tiny_emoji: Path) -> None:
    batch = next(batches(tiny_emoji, view=PreprocessSpec(32)))
    assert batch.images.shape == (8, 3, 48, 48)
    assert batch.views.shape == (8, 32, 32, 3)
    assert batch.points.shape == (8, 3, 2, 2)
    assert batch.labels.shape == (8, 3, 2)
    assert batch.masks.shape == (8, 3, 24, 24)
    assert 0 <= batch.masks.min() <= batch.masks.max() <= 1


def test_points_lie_on_their_objects(tiny_emoji: Path) -> None:
    batch = next(batches(tiny_emoji, PromptSpec(count=4, box_share=0), side=48))
    assert (batch.labels == torch.tensor([INSIDE, PADDING])).all()
    for points, masks in zip(batch.points.flatten(0, 1), batch.masks.flatten(0, 1), strict=True):
        x, y = (points[0] * 48).long().tolist()
        assert masks[y, x] == 1


def test_boxes_without_jitter_fit_their_objects(tiny_emoji: Path) -> None:
    batch = next(batches(tiny_emoji, PromptSpec(count=4, box_share=1, box_jitter=0), side=48))
    assert (batch.labels[..., 0] == TOP_LEFT).all()
    for points, masks in zip(batch.points.flatten(0, 1), batch.masks.flatten(0, 1), strict=True):
        rows, columns = masks.any(1).nonzero(), masks.any(0).nonzero()
        found = torch.tensor([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]) / 48
        torch.testing.assert_close(points, found)


def test_a_mirrored_picture_has_mirrored_outlines(tiny_emoji: Path) -> None:
    plain, mirrored = (
        next(batches(tiny_emoji, PromptSpec(count=1, box_share=1, box_jitter=0, flip=flip), view=SPEC))
        for flip in (0.0, 1.0)
    )
    assert torch.equal(plain.images.flip(-1), mirrored.images)
    assert torch.equal(plain.views.flip(2), mirrored.views)
    assert torch.equal(plain.masks.flip(-1), mirrored.masks)


def test_batches_are_a_function_of_the_step(tiny_emoji: Path) -> None:
    stream = batches(tiny_emoji)
    next(stream)
    second, again = next(stream), next(batches(tiny_emoji, start_step=1))
    assert torch.equal(second.points, again.points)
    assert torch.equal(second.images, again.images)


def test_pictures_without_masks_are_named(tmp_path: Path) -> None:
    table = tmp_path / "pictures.tsv"
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    table.write_text("filepath\ttitle\n" + "a.png\ta thing\n")
    told: list[Problem] = []
    with pytest.raises(DataError, match="1 samples in a row cannot be read; the last one: no mask beside the picture"):
        next(batches(table, batch_size=1, on_problem=told.append))


@pytest.mark.parametrize(("name", "value"), [("count", 0), ("box_share", 1.5), ("flip", -0.1)])
def test_values_that_cannot_be(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must "):
        PromptSpec(**{name: value})  # type: ignore[arg-type]
