"""Evaluation while training: retrieval or outlines on held-out pictures, and whether there is any sign of learning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, cast

from torch import nn

from clip_edge.distill.data.samples import DataSet
from clip_edge.distill.evaluate import KS, evaluate
from clip_edge.distill.loop import Evaluation
from clip_edge.distill.models.checkpoint import LoadedStudent
from clip_edge.distill.models.student import Student
from clip_edge.distill.outlines import PROMPTS, prompted_iou

DIRECTIONS = ("text_to_image", "image_to_text")
NOTHING_LEARNT = 0.1  # IoU; a head that calls everything or nothing the object lies near 0.1 on scenes


class Check(Protocol):
    """What is measured while training: makes a function that measures weights on at most `limit` pictures (0: all)."""

    def __call__(
        self, loaded: LoadedStudent, dataset: DataSet, *, langs: tuple[str, ...], limit: int
    ) -> Callable[[nn.Module], Evaluation]: ...


def retrieval_check(
    loaded: LoadedStudent, dataset: DataSet, *, langs: tuple[str, ...], limit: int
) -> Callable[[nn.Module], Evaluation]:
    """Retrieval with weights of the same student, in each of `langs`."""

    def check(model: nn.Module) -> Evaluation:
        with _modes_kept(model):
            result = evaluate(replace(loaded, student=cast(Student, model)), dataset, langs=langs, limit=limit or None)
        mean = result["mean"]
        recall_at_1 = [mean[direction]["recall_at_1"]["value"] for direction in DIRECTIONS]
        return Evaluation(
            figures=figures(dataset.split, mean),
            note=_note(dataset.split, result["images"], mean),
            score=sum(recall_at_1) / len(recall_at_1),
            at_chance=all(is_at_chance(found) for found in result["languages"].values()),
        )

    return check


def outline_check(
    loaded: LoadedStudent, dataset: DataSet, *, langs: tuple[str, ...], limit: int
) -> Callable[[nn.Module], Evaluation]:
    """The IoU of outlines that boxes and points ask for; languages play no part."""

    def check(model: nn.Module) -> Evaluation:
        with _modes_kept(model):
            found = prompted_iou(replace(loaded, student=cast(Student, model)), dataset, limit=limit or None)
        iou = {kind: found[kind]["iou"] for kind in PROMPTS}
        asked = ", ".join(f"{kind} {100 * value:.1f} %" for kind, value in iou.items())
        return Evaluation(
            figures={f"{dataset.split}/{kind}/iou": value for kind, value in iou.items()},
            note=f"{dataset.split}, {found['images']} pictures: IoU of outlines asked for by {asked}",
            score=sum(iou.values()) / len(iou),
            at_chance=max(iou.values()) < NOTHING_LEARNT,
        )

    return check


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    """A frozen trunk stays in evaluation mode while the rest trains."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def figures(split: str, mean: Mapping[str, Any]) -> dict[str, float]:
    """Flat names for the log: val/text_to_image/recall_at_1 and so on."""
    return {
        f"{split}/{direction}/recall_at_{k}": mean[direction][f"recall_at_{k}"]["value"]
        for direction in DIRECTIONS
        for k in KS
    }


def _note(split: str, pictures: int, mean: Mapping[str, Any]) -> str:
    parts = [
        f"{direction.replace('_', ' ')} R@1 {100 * mean[direction]['recall_at_1']['value']:.1f} %, "
        f"R@10 {100 * mean[direction]['recall_at_10']['value']:.1f} %"
        for direction in DIRECTIONS
    ]
    return f"{split}, {pictures} pictures: " + "; ".join(parts)


def is_at_chance(found: Mapping[str, Any]) -> bool:
    """Whether no recall of one language is better than guessing.

    Of N pictures, k guesses find the right one with probability k / N. A recall is better than that when the lower
    end of its 95 % interval is; with k close to N nothing can be said, and that recall does not count.
    """
    pictures = found["images"]
    counted = [k for k in KS if 2 * k <= pictures]
    recalls = [(k, found[direction][f"recall_at_{k}"]) for direction in DIRECTIONS for k in counted]
    return bool(recalls) and not any(recall["low"] > k / pictures for k, recall in recalls)
