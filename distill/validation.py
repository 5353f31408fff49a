"""Evaluation while training: retrieval on held-out pictures, and whether there is any sign of learning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from torch import nn

from clip_edge.distill.data.samples import DataSet
from clip_edge.distill.evaluate import KS, evaluate
from clip_edge.distill.loop import Evaluation
from clip_edge.distill.models.checkpoint import LoadedStudent
from clip_edge.distill.models.student import Student

DIRECTIONS = ("text_to_image", "image_to_text")


def retrieval_check(
    loaded: LoadedStudent, dataset: DataSet, *, langs: tuple[str, ...], limit: int
) -> Callable[[nn.Module], Evaluation]:
    """A function that measures weights of the same student on at most `limit` pictures (0: all of them)."""

    def check(model: nn.Module) -> Evaluation:
        modes = [(module, module.training) for module in model.modules()]
        try:
            result = evaluate(replace(loaded, student=cast(Student, model)), dataset, langs=langs, limit=limit or None)
        finally:
            for module, mode in modes:  # a frozen trunk stays in evaluation mode while the rest trains
                module.training = mode
        mean = result["mean"]
        recall_at_1 = [mean[direction]["recall_at_1"]["value"] for direction in DIRECTIONS]
        return Evaluation(
            figures=figures(dataset.split, mean),
            note=_note(dataset.split, result["images"], mean),
            score=sum(recall_at_1) / len(recall_at_1),
            at_chance=all(is_at_chance(found) for found in result["languages"].values()),
        )

    return check


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
