"""How well a model outlines what a box or a point asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clip_edge.console import SILENT, Console
from clip_edge.distill.data.masks import Objects, box_prompt, point_prompt, scene_batches
from clip_edge.distill.data.samples import DataSet, Sample
from clip_edge.distill.evaluate import evenly
from clip_edge.distill.losses.masks import mask_iou
from clip_edge.distill.mask_teacher import Answer, outline
from clip_edge.distill.models.sight import sight_of
from clip_edge.errors import ConfigError, DataError
from clip_edge.preprocess import PreprocessSpec, normalize

PROMPTS = ("box", "point")


class Outliner(Protocol):
    """What is measured: a loaded student with a mask head."""

    @property
    def student(self) -> Any: ...
    @property
    def preprocess(self) -> PreprocessSpec: ...


def prompted_iou(
    loaded: Outliner,
    dataset: DataSet,
    *,
    limit: int | None = None,
    batch_size: int = 64,
    answer: Callable[[Tensor, Tensor, Tensor], Answer] | None = None,
    console: Console = SILENT,
) -> dict[str, Any]:
    """The mean IoU over all objects, each asked for by its box and by a point inside that depends on the seed 0 alone.

    Of three answers the one counts of which the head expects most. Masks are compared in the square picture that the
    model sees, at its size.

    Args:
        limit: measure at most so many pictures, spread evenly.
        answer: another model than the student's own head, as `MaskTeacher.outline`.

    Returns:
        {"box": {"iou": mean}, "point": {"iou": mean}, "objects": N, "images": N, "skipped": [{key, reason}, …]}

    Raises:
        ConfigError: the student has no mask head.
        DataError: no picture with an object that can be read.
    """
    model = answer or _own(loaded.student)
    device = next(loaded.student.parameters()).device
    places = evenly(len(dataset), limit)
    found: dict[str, list[Tensor]] = {kind: [] for kind in PROMPTS}
    skipped: list[dict[str, str]] = []
    images = 0
    with console.progress("outline", len(places), "pictures") as meter, torch.inference_mode():
        for pixels, objects, numbers in scene_batches(dataset, places, loaded.preprocess, batch_size, _shown, skipped):
            images += len(pixels)
            seen = torch.from_numpy(normalize(pixels, loaded.preprocess)).to(device)
            for kind in PROMPTS:
                found[kind] += _measure(model, seen, objects, numbers, kind)
            meter.advance(len(pixels))
    if not images:
        raise DataError(
            "no picture with an object that can be outlined",
            where=dataset.name,
            hint=skipped[0]["reason"] if skipped else None,
        )
    means = {kind: {"iou": float(torch.cat(values).mean())} for kind, values in found.items()}
    return {**means, "objects": sum(map(len, found["box"])), "images": images, "skipped": skipped}


def _own(student: Any) -> Callable[[Tensor, Tensor, Tensor], Answer]:
    sight = sight_of(student)
    masks = sight.masks
    if masks is None:
        name = f"student {student.spec.name}" if hasattr(student, "spec") else "the bundle"
        raise ConfigError(f"{name} has no mask head", hint="make one with the recipes segment and sam-clip")
    student.eval()
    return lambda pixels, points, labels: outline(masks, sight.encode(pixels), points, labels)


def _shown(sample: Sample, objects: Objects) -> Objects:
    if not len(objects.masks):
        raise DataError("the mask shows no object")
    return objects


def _measure(
    model: Callable[[Tensor, Tensor, Tensor], Answer],
    pixels: Tensor,
    objects: list[Objects],
    numbers: list[int],
    kind: str,
) -> list[Tensor]:
    """The IoU of every object, picture by picture. All pictures get as many prompts as the fullest one."""
    count = max(len(one.masks) for one in objects)
    points = torch.zeros(len(objects), count, 2, 2)
    labels = torch.full((len(objects), count, 2), -1)
    for row, (one, number) in enumerate(zip(objects, numbers, strict=True)):
        for column, mask in enumerate(one.masks):
            rng = np.random.default_rng((0, number, column))
            at, what = box_prompt(mask) if kind == "box" else point_prompt(mask, rng)
            points[row, column], labels[row, column] = torch.from_numpy(at), torch.from_numpy(what)
    answers = model(pixels, points.to(pixels.device), labels.to(pixels.device))
    logits, quality = (one.float().cpu() for one in answers)  # (B K, 3, M, M), (B K, 3)
    best = logits[torch.arange(len(logits)), quality.argmax(1)]  # (B K, M, M)
    best = best.reshape(-1, count, *best.shape[1:])
    size = pixels.shape[-2:]
    return [
        mask_iou(
            F.interpolate(best[row : row + 1, : len(one.masks)], size, mode="bilinear", align_corners=False)[0],
            torch.from_numpy(one.masks).float(),
        )
        for row, one in enumerate(objects)
    ]
