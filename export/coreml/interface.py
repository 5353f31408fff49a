"""What a package computes and how it is called: a tower, or a graph for segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clip_edge.export.coreml.tools import coremltools
from clip_edge.export.job import GraphJob, Job
from clip_edge.golden_graphs import PICTURE
from clip_edge.runtime.backends.pixels import denormalize

LEAST_POINTS, MOST_POINTS = 2, 16  # of a prompt: Core ML wants an end, and each number takes time to prepare
HEADS = {"feature_map": "What the encoder gives.", "points": "x and y of each point in 0..1 of the square picture."}
HEADS |= {"labels": "What each point is: 1 inside, 0 outside, 2 and 3 corners of a box, -1 padding."}
RESULTS = {
    "feature_map": "What the heads read.",
    "image_embeds": "The embedding, of length one.",
    "patch_embeds": "The embedding of every place, of length one.",
    "mask_logits": "Three masks: above 0 is inside.",
    "iou": "How good each mask is expected to be, 0..1.",
}


class Picture(nn.Module):
    """An image tower that takes pixels from 0 to 255: Core ML's picture input knows only one scale for all channels."""

    def __init__(self, tower: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.tower = tower
        self.mean: Tensor
        self.factor: Tensor
        self.register_buffer("mean", 255 * torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("factor", 1 / (255 * torch.tensor(std).reshape(1, -1, 1, 1)))

    def forward(self, image: Tensor) -> Tensor:
        """(1, 3, S, S) pixels of 0..255 -> (1, D)"""
        embeds: Tensor = self.tower((image - self.mean) * self.factor)
        return embeds


@dataclass(frozen=True)
class Interface:
    """`examples` of a batch of one, by the names of the inputs; `words` say what each input and output is."""

    name: str  # "image tower", "mask decoder"
    job: Job
    module: nn.Module
    examples: dict[str, Tensor]
    outputs: tuple[str, ...]
    words: dict[str, str]

    def given(self) -> list[Any]:
        """The inputs as coremltools declares them."""
        ct = coremltools()
        points = ct.RangeDim(lower_bound=LEAST_POINTS, upper_bound=MOST_POINTS, default=LEAST_POINTS)
        found = []
        for name, example in self.examples.items():
            shape: tuple[Any, ...] = tuple(example.shape)
            if name == PICTURE:
                found.append(ct.ImageType(name=name, shape=shape, color_layout=ct.colorlayout.RGB))
                continue
            shape = (1, points, *shape[2:]) if name in ("points", "labels") else shape
            dtype = np.float32 if example.is_floating_point() else np.int32
            found.append(ct.TensorType(name=name, shape=shape, dtype=dtype))
        return found

    def free(self) -> tuple[dict[int, torch.export.Dim] | None, ...]:
        """The axes of each input that torch may not take for constants."""
        points = torch.export.Dim("points", min=LEAST_POINTS, max=MOST_POINTS)
        return tuple({1: points} if name in ("points", "labels") else None for name in self.examples)

    def rows(self, inputs: np.ndarray) -> list[Mapping[str, np.ndarray]]:
        """Inputs of the tower, one by one as the package takes them: pictures before normalising."""
        job = self.job
        if job.prepare is not None:
            read = job.prepare(inputs)
        elif job.tower == "image":
            read = {PICTURE: denormalize(inputs, job.source.preprocess)}
        else:
            read = {job.declaration.input: inputs}
        return [{name: array[i : i + 1] for name, array in read.items()} for i in range(len(inputs))]

    def expected(self, inputs: np.ndarray) -> list[np.ndarray]:
        """What PyTorch makes of the same inputs: each output, (N, ...)."""
        rows = self.job.prepare(inputs) if self.job.prepare is not None else {"": inputs}
        with torch.inference_mode():
            parts = [
                self.job.module(*(torch.from_numpy(array[i : i + 1]) for array in rows.values()))
                for i in range(len(inputs))
            ]
        each = [part if isinstance(part, tuple) else (part,) for part in parts]
        return [torch.cat(values).numpy() for values in zip(*each, strict=True)]


def tower_interface(job: Job) -> Interface:
    """A tower: picture or int32 ids in, a unit row out."""
    source, declaration = job.source, job.declaration
    spec = source.preprocess
    result = {declaration.output: f"The embedding: {source.dim} numbers, of length one."}
    module: nn.Module
    if job.tower == "image":
        module, example = Picture(job.module, spec.mean, spec.std).eval(), torch.full(job.example[:1].shape, 127.0)
        words = {declaration.input: _picture(spec.size)}
    else:
        module, example = job.module, job.example[:1].to(torch.int32)
        words = {declaration.input: f"A row of {source.tokenizer.spec.context_length} token ids, padding included."}
    name, outputs = f"{job.tower} tower", (declaration.output,)
    return Interface(name, job, module, {declaration.input: example}, outputs, words | result)


def graph_interface(job: GraphJob) -> Interface:
    """A graph for segmentation."""
    pictures = job.pictures
    spec = pictures.source.preprocess
    examples = {name: value[:1] for name, value in zip(job.declaration.inputs, job.examples, strict=True)}
    module: nn.Module = pictures.module
    if PICTURE in examples:
        module = Picture(module, spec.mean, spec.std).eval()
        examples = {PICTURE: torch.full(examples[PICTURE].shape, 127.0)}
    words = {**HEADS, PICTURE: _picture(spec.size), **RESULTS}
    name = job.graph.replace("_", " ").replace("clip", "CLIP")
    return Interface(name, pictures, module, examples, job.declaration.outputs, words)


def _picture(size: int) -> str:
    return f"An upright RGB picture of {size} × {size} pixels, resized as the bundle's manifest.json says."
