"""How long a picture takes on its way to names and outlines, with one encoder and with two: rows measured in turns.

Bundles run on ONNX Runtime through the runtime that apps use, from a decoded picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clip_edge.benchmarks.environment import read_environment
from clip_edge.benchmarks.sam_clip.pipeline import GRID
from clip_edge.benchmarks.scenarios import Rules, Sampler, sample_in_turns, timed
from clip_edge.benchmarks.stats import summarise
from clip_edge.runtime import Model, Prompt, load

THREADS = 1
WORDS = ("a red apple", "a dog", "a house")
Work = Callable[[], object]


def latencies(
    namer: Path, outliner: Path, merged: Path, picture: Image.Image, *, crops: int, rules: Rules
) -> dict[str, Any]:
    """Bundles of the CLIP teacher, the mask teacher and the merged student; the pipeline names `crops` pictures.

    Returns:
        {"threads", "environment", "rules", "rows": {title: {"p50_s", "p50_low_s", "p50_high_s", "min_s", "samples_s"}}}
    """
    opened = (load(bundle, threads=THREADS) for bundle in (namer, outliner, merged))
    with ExitStack() as stack:
        clip, sam, both = (stack.enter_context(model) for model in opened)
        rows = _rows(clip, sam, both, picture, crops)
        samplers = {title: Sampler(timed(_no_stages(work)), rules) for title, work in rows.items()}
        sample_in_turns(list(samplers.values()))
    for title, sampler in samplers.items():
        if sampler.failure:
            raise RuntimeError(f"{title}: {sampler.failure}")
    return {
        "threads": THREADS,
        "environment": dataclasses.asdict(read_environment()),
        "rules": dataclasses.asdict(rules),
        "rows": {title: _row(sampler.samples_s) for title, sampler in samplers.items()},
    }


def _rows(clip: Model, sam: Model, both: Model, picture: Image.Image, crops: int) -> dict[str, Work]:
    """What is timed. Words are embedded once, as an app does."""
    box = Prompt(box=(0.2 * picture.width, 0.2 * picture.height, 0.7 * picture.width, 0.7 * picture.height))
    steps = (np.arange(GRID) + 0.5) / GRID
    grid = [Prompt(points=((x * picture.width, y * picture.height),)) for y in steps for x in steps]
    both.encode_labels(WORDS)
    both.encode_labels(["background"])

    def one(prompts: Sequence[Prompt]) -> None:
        view = both.look(picture)
        both.embed(view)
        if prompts:
            both.masks(view, prompts)

    def one_named() -> None:
        both.segment(picture, WORDS, background=["background"])

    def two(prompts: Sequence[Prompt]) -> None:
        clip.encode_images([picture])
        view = sam.look(picture)
        if prompts:
            sam.masks(view, prompts)

    def crops_named() -> None:
        sam.masks(sam.look(picture), grid)
        clip.encode_images([picture] * crops, batch_size=max(1, crops))

    return {
        "CLIP teacher: embedding": lambda: clip.encode_images([picture]),
        "mask teacher: map": lambda: sam.look(picture),
        "two encoders": lambda: two([]),
        "merged: map, embeddings of the picture and of all places": lambda: one([]),
        "two encoders, one outline": lambda: two([box]),
        "merged, one outline": lambda: one([box]),
        "merged, a word for every pixel": one_named,
        "pipeline: all outlines, crops named": crops_named,
    }


def _no_stages(work: Work) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        work()
        return {}

    return run


def _row(samples_s: Sequence[float]) -> dict[str, Any]:
    summary = summarise(samples_s)
    return {
        "p50_s": summary.p50,
        "p50_low_s": summary.p50_low,
        "p50_high_s": summary.p50_high,
        "min_s": summary.min,
        "samples_s": [round(value, 7) for value in samples_s],
    }
