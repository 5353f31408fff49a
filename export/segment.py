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

from clip_edge.bundle import Precision
from clip_edge.console import Console
from clip_edge.distill.models.student import Student
from clip_edge.errors import ConfigError, ExportError
from clip_edge.export.calibration import Calibration
from clip_edge.export.job import GraphJob, Job, Prepare, WriteGraph
from clip_edge.export.parts import cut
from clip_edge.export.sources import Exportable
from clip_edge.export.targets import Target, graph_file_name
from clip_edge.export.towers import MAX_FOLD_ERROR, probe_pixels, reparameterize
from clip_edge.files import write_file
from clip_edge.golden import Golden
from clip_edge.golden_graphs import GOLDEN_GRAPHS, PIXELS, GraphGolden
from clip_edge.graphs import Graph, GraphName, NamedTensor, TensorType
from clip_edge.preprocess import normalize
from clip_edge.quantization import SUFFIX, Machine

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
    targets: Sequence[tuple[str, Target, Precision, Machine]],
    golden: Golden,
    folder: Path,
    calibration: Calibration | None,
    console: Console,
) -> tuple[Graph, ...]:
    """Write every graph in every precision it has, and the references; gives what the manifest says about them."""
    pixels = torch.from_numpy(normalize(golden.pixels[:CASES], source.preprocess))
    reference = run_graphs(cut(student), pixels)
    write_file(folder / GOLDEN_GRAPHS, _golden(reference).to_bytes())
    folded = _fold(student, reference)
    probe = probe_pixels(source.preprocess.size)
    reads: dict[GraphName, Prepare | None] = {"encoder": None}
    reads |= {head: _reads(folded["encoder"], head) for head in folded if head != "encoder"}
    written = []
    for name, target, precision, machine in targets:
        for graph, declaration in target.graphs.items():
            if graph not in folded:
                continue
            path = graph_file_name(target, graph, precision)
            console.say(f"exporting {path}")
            examples = tuple(reference[key][:BATCH].clone() for key in declaration.inputs)
            pictures = Job("image", folded[graph], probe, source, target, precision, calibration, console)
            pictures = replace(pictures, machine=machine, prepare=reads[graph])
            job = GraphJob(graph, folded[graph], examples, target, precision, pictures)
            written.append(_write_graph(job, name, folder / path, path, reference))
    return tuple(written)


def _write_graph(job: GraphJob, target: str, file: Path, path: str, reference: Values) -> Graph:
    declaration = job.target.graphs[job.graph]
    file.parent.mkdir(exist_ok=True)
    writer = cast(_Module, importlib.import_module(job.target.module))
    report = writer.write_graph(job, file)
    if report is not None:
        write_file(file.with_name(file.name + SUFFIX), report.to_bytes())
    return Graph(
        graph=job.graph,
        target=target,
        precision=job.precision,
        path=path,
        inputs=tuple(_named(key, dtype, reference[key]) for key, dtype in declaration.inputs.items()),
        outputs=tuple(_named(key, "float32", reference[key]) for key in declaration.outputs),
        opset=job.target.opset_of(job.precision),
        verification=None,
        quantization=None if report is None else f"{path}{SUFFIX}",
    )


def _reads(encoder: nn.Module, head: GraphName) -> Prepare:
    """What a head reads of pictures: their maps, and prompts in turn where it takes them."""

    def prepare(pixels: np.ndarray) -> dict[str, np.ndarray]:
        parts = [torch.from_numpy(pixels[at : at + CASES]) for at in range(0, len(pixels), CASES)]
        with torch.inference_mode():
            found = {"feature_map": torch.cat([encoder(part) for part in parts]).numpy()}
        if head == "mask_decoder":
            found |= {name: value.numpy() for name, value in _prompts(len(pixels)).items()}
        return found

    return prepare


def _prompts(count: int) -> Values:
    """`PROMPTS` in turn, one for each picture."""
    turns = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
    return {
        "points": torch.tensor([points for points, _ in turns]),
        "labels": torch.tensor([labels for _, labels in turns]),
    }


def _named(name: str, dtype: TensorType, value: Tensor) -> NamedTensor:
    """Batch and number of points are free."""
    free = 2 if name in ("points", "labels") else 1
    return NamedTensor(name, dtype, (*[None] * free, *value.shape[free:]))


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
