"""Writes the graphs for segmentation: encoder, CLIP head and mask decoder, with the references that prove them."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from clip_edge.distill.models.student import Student
from clip_edge.errors import ConfigError, ExportError
from clip_edge.export.job import GraphJob, Job, Prepare, WriteGraph
from clip_edge.export.parts import cut
from clip_edge.export.sources import Exportable
from clip_edge.export.targets import Target, graph_file_name
from clip_edge.export.towers import MAX_FOLD_ERROR, reparameterize
from clip_edge.files import write_file
from clip_edge.golden import Golden
from clip_edge.golden_graphs import GOLDEN_GRAPHS, PICTURE, PIXELS, GraphGolden
from clip_edge.graphs import Graph, GraphName, NamedTensor, TensorType
from clip_edge.preprocess import normalize
from clip_edge.quantization import SUFFIX

CASES = 6  # golden pictures with references between the graphs: maps are large
BATCH = 2  # of an example: a batch of 1 would be taken for a constant
# Prompts of the golden pictures, in turn: a point and padding, a box and padding, a box with a point inside and one
# outside. Rows are longer than the batch of an example: torch takes two free sizes that are equal for one.
PROMPTS: tuple[tuple[list[list[float]], list[int]], ...] = (
    ([[0.5, 0.5], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [1, -1, -1, -1]),
    ([[0.2, 0.25], [0.75, 0.8], [0.0, 0.0], [0.0, 0.0]], [2, 3, -1, -1]),
    ([[0.1, 0.3], [0.8, 0.9], [0.3, 0.6], [0.9, 0.1]], [2, 3, 1, 0]),
)

Values = dict[str, Tensor]
_REFERENCES = {PICTURE: PIXELS}  # inputs that are another form of one that is stored


class _Module(Protocol):
    write_graph: WriteGraph


def parts_to_write(source: Exportable, targets: Mapping[str, Target], *, asked: bool) -> Student | None:
    """The student to cut up, when asked for, and always when it was merged for that; None: no graphs.

    Raises:
        ConfigError: asked for, and the model has no such parts, or no target writes them.
    """
    able = [name for name, target in targets.items() if target.graphs]
    if asked and source.student is None:
        raise ConfigError(
            "this model cannot be cut into an encoder and a head that sees single places",
            where=source.where,
            hint="--segment works with student folders whose image tower does not pool by attention",
        )
    if asked and not able:
        raise ConfigError(
            f"no graphs for segmentation for target `{next(iter(targets))}`", hint="add --target onnx, which has them"
        )
    merged = source.student is not None and source.student.spec.image.head is not None
    return source.student if able and (asked or merged) else None


def write_graphs(
    source: Exportable,
    student: Student,
    towers: Sequence[tuple[str, Job]],
    golden: Golden,
    folder: Path,
) -> tuple[Graph, ...]:
    """Write every graph beside each of the image towers (name of the target, job), and the references.

    Returns:
        What the manifest says about the graphs.
    """
    pixels = torch.from_numpy(normalize(golden.pixels[:CASES], source.preprocess))
    reference = run_graphs(cut(student), pixels)
    write_file(folder / GOLDEN_GRAPHS, _golden(reference).to_bytes())
    folded = _fold(student, reference)
    written = []
    for name, tower in towers:
        for graph, declaration in tower.target.graphs.items():
            if graph not in folded:
                continue
            path = graph_file_name(tower.target, graph, tower.precision)
            tower.console.say(f"exporting {path}")
            examples = tuple(_example(key, dtype, reference) for key, dtype in declaration.inputs.items())
            reads = None if graph == "encoder" else _reads(folded["encoder"], declaration.inputs)
            job = GraphJob(graph, examples, replace(tower, module=folded[graph], prepare=reads))
            written.append(_write_graph(job, name, folder / path, path, reference))
    return tuple(written)


def _write_graph(job: GraphJob, target: str, file: Path, path: str, reference: Values) -> Graph:
    declaration = job.declaration
    target_row, precision = job.pictures.target, job.pictures.precision
    file.parent.mkdir(exist_ok=True)
    writer = cast(_Module, importlib.import_module(target_row.module))
    report = writer.write_graph(job, file)
    if report is not None:
        write_file(file.with_name(file.name + SUFFIX), report.to_bytes())
    return Graph(
        graph=job.graph,
        target=target,
        precision=precision,
        path=path,
        inputs=tuple(_named(key, dtype, reference, target_row.batch) for key, dtype in declaration.inputs.items()),
        outputs=tuple(_named(key, "float32", reference, target_row.batch) for key in declaration.outputs),
        opset=target_row.opset_of(precision),
        verification=None,
        quantization=None if report is None else f"{path}{SUFFIX}",
    )


def _reads(encoder: nn.Module, inputs: Mapping[str, TensorType]) -> Prepare:
    """What a head reads of pictures: their maps, and prompts in turn where it takes them."""

    def prepare(pixels: np.ndarray) -> dict[str, np.ndarray]:
        parts = [torch.from_numpy(pixels[at : at + CASES]) for at in range(0, len(pixels), CASES)]
        with torch.inference_mode():
            found = {"feature_map": torch.cat([encoder(part) for part in parts]).numpy()}
        found |= {name: value.numpy() for name, value in _prompts(len(pixels)).items()}
        return {name: found[name].astype(dtype, copy=False) for name, dtype in inputs.items()}

    return prepare


def _prompts(count: int) -> Values:
    """`PROMPTS` in turn, one for each picture."""
    turns = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
    return {
        "points": torch.tensor([points for points, _ in turns]),
        "labels": torch.tensor([labels for _, labels in turns]),
    }


def _example(name: str, dtype: TensorType, reference: Values) -> Tensor:
    """The first values of an input, in its type; normalised pictures where the graph takes those before."""
    example = reference[_REFERENCES.get(name, name)][:BATCH].contiguous().clone()
    return example if dtype == "uint8" else example.to(getattr(torch, dtype))


def _named(name: str, dtype: TensorType, reference: Values, batch: int | None) -> NamedTensor:
    """The number of points is free, and the batch where the target leaves it open."""
    shape = reference[_REFERENCES.get(name, name)].shape
    points = [None] if name in ("points", "labels") else []
    return NamedTensor(name, dtype, (batch, *points, *shape[1 + len(points) :]))


def run_graphs(graphs: Mapping[GraphName, nn.Module], pixels: Tensor) -> Values:
    """(K, 3, S, S) through all graphs with the golden prompts: every input and output by name."""
    values: Values = {PIXELS: pixels, **_prompts(len(pixels))}
    with torch.inference_mode():
        values["feature_map"] = graphs["encoder"](pixels)
        values["image_embeds"], values["patch_embeds"] = graphs["clip_head"](values["feature_map"])
        if "mask_decoder" in graphs:
            given = values["feature_map"], values["points"], values["labels"]
            values["mask_logits"], values["iou"] = graphs["mask_decoder"](*given)
        else:
            del values["points"], values["labels"]
    return values


def _golden(reference: Values) -> GraphGolden:
    return GraphGolden({name: np.asarray(value) for name, value in reference.items() if name != PIXELS})


def _fold(student: Student, reference: Values) -> dict[GraphName, nn.Module]:
    """The graphs of a copy with training-time branches folded into one.

    Raises:
        ExportError: folding changed the numbers, or left a branch behind.
    """
    folded = copy.deepcopy(student, {id(student.text): nn.Identity()})  # the text tower is no part of them
    reparameterize(folded)
    graphs = cut(folded)
    for name, value in run_graphs(graphs, reference[PIXELS]).items():
        scale = max(1.0, float(reference[name].abs().max()))
        error = float((value - reference[name]).abs().max()) / scale
        if not error <= MAX_FOLD_ERROR:  # also true for NaN
            raise ExportError(
                f"folding changed `{name}`: values differ by {error:.1e} of the largest, "
                f"at most {MAX_FOLD_ERROR:.0e} allowed",
                hint="export a student whose weights are finite; run `clip-edge eval` on it first",
            )
    return graphs
