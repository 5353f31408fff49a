"""Target `onnx`: a tower as one deterministic ONNX file."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast
from weakref import WeakKeyDictionary

import onnx
import torch
from torch import Tensor, nn

from clip_edge import __version__
from clip_edge.errors import ExportError
from clip_edge.export.attention import plain_attention
from clip_edge.export.job import GraphJob, Job
from clip_edge.export.rewrite import rewritten
from clip_edge.export.targets import Declaration
from clip_edge.files import write_file
from clip_edge.quantization import Quantization

MAX_BYTES = 2 * 1024**3 - 1  # of one protobuf file
FORBIDDEN = frozenset({"If", "Loop", "Scan", "NonZero"})  # signs of a trace that depends on its example
_traced: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], onnx.ModelProto]] = WeakKeyDictionary()

PRECISIONS = {  # precision -> module with `quantise(model, job) -> (model, report)`
    "fp16": "clip_edge.export.quantize.fp16",
    "int8": "clip_edge.export.quantize.int8",
    "int4": "clip_edge.export.quantize.int4",
}


class _Module(Protocol):
    def quantise(self, model: onnx.ModelProto, job: Job) -> tuple[onnx.ModelProto, Quantization]: ...


def write_tower(job: Job, path: Path) -> Quantization | None:
    """Write a tower to `path`: named input and output, dynamic batch, weights inside, nothing about this machine.

    Raises:
        ExportError: torch cannot trace the tower, or the graph holds what runtimes stumble over.
    """
    return _write(_traced_once(job), job if job.precision != "fp32" else None, path)


def write_graph(job: GraphJob, path: Path) -> Quantization | None:
    """Write a graph for segmentation to `path`: as `write_tower`, with several inputs and outputs.

    The batch is free, and so is the number of points.

    Raises:
        ExportError, ConfigError: as `write_tower`.
    """
    return _write(traced_graph(job), job.pictures if job.pictures.precision != "fp32" else None, path)


def traced_graph(job: GraphJob) -> onnx.ModelProto:
    """A copy of the fp32 form of a graph for segmentation, which is traced once for all precisions."""
    batch, points = torch.export.Dim("batch"), torch.export.Dim("points")
    free = {"points": {0: batch, 1: points}, "labels": {0: batch, 1: points}}
    dynamic = tuple(free.get(name, {0: batch}) for name in job.declaration.inputs)
    names = list(job.declaration.inputs), list(job.declaration.outputs)
    module, opset = job.pictures.module, job.pictures.target.opset
    kind = (opset, *job.declaration.inputs.values())  # targets differ in both
    return _once(module, kind, lambda: _trace(module, job.examples, names, dynamic, opset))


def _write(plain: onnx.ModelProto, lower: Job | None, path: Path) -> Quantization | None:
    """Save a traced graph as it is, or in the precision of the job `lower`; gives the report of that."""
    if lower is None:
        save(rewritten(plain), path)
        return None
    module = cast(_Module, importlib.import_module(PRECISIONS[lower.precision]))
    lowered, report = module.quantise(plain, lower)
    save(lowered, path)
    return report


def _traced_once(job: Job) -> onnx.ModelProto:
    """A copy of the fp32 graph of a tower, which is traced once for all precisions."""
    return _once(job.module, (), lambda: trace(job.module, job.example, job.declaration, job.target.opset))


def _once(module: nn.Module, kind: tuple[object, ...], make: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
    known = _traced.setdefault(module, {})
    if kind not in known:
        with plain_attention():
            known[kind] = make()
        clean(known[kind])
    copied = onnx.ModelProto()
    copied.CopyFrom(known[kind])
    return copied


def save(model: onnx.ModelProto, path: Path) -> None:
    """Clean the graph, check it, and write it as one deterministic file.

    Raises:
        ExportError: it holds what runtimes stumble over, or is too large.
    """
    clean(model)
    _check(model, path.name)
    if model.ByteSize() > MAX_BYTES:
        raise ExportError(f"{path.name} would be larger than 2 GB, the limit of one ONNX file", hint="export less")
    write_file(path, model.SerializeToString(deterministic=True))


def trace(tower: nn.Module, example: Tensor, declaration: Declaration, opset: int) -> onnx.ModelProto:
    """The fp32 graph of a tower.

    Raises:
        ExportError: torch cannot trace it.
    """
    names = [declaration.input], [declaration.output]
    return _trace(tower, (example,), names, ({0: torch.export.Dim("batch")},), opset)


def _trace(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    names: tuple[list[str], list[str]],
    dynamic: tuple[dict[int, torch.export.Dim], ...],
    opset: int,
) -> onnx.ModelProto:
    try:
        with _silence():
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                opset_version=opset,
                input_names=names[0],
                output_names=names[1],
                dynamic_shapes=dynamic,
                verbose=False,
            )
    except Exception as problem:  # the exporter wraps whatever failed inside it
        raise ExportError(
            f"torch {torch.__version__} cannot trace {type(module).__name__}: {_root_cause(problem)}",
            hint="choose an image tower without data-dependent control flow; -v shows the whole report",
        ) from problem
    assert program is not None  # with dynamo=True there always is one
    model: onnx.ModelProto = program.model_proto
    return model


def _root_cause(problem: BaseException) -> str:
    """The first line of what failed first, which the exporter wraps in pages of advice."""
    while problem.__cause__ is not None:
        problem = problem.__cause__
    return str(problem).strip().partition("\n")[0]


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter logs and warns about itself; what it makes is checked instead."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def clean(model: onnx.ModelProto) -> None:
    """Remove stack traces, paths and names of the machine, so that the same weights give the same bytes."""
    model.producer_name, model.producer_version = "clip-edge", __version__
    model.doc_string = model.graph.doc_string = ""
    model.graph.name = "tower"
    for holder in (model, model.graph, *model.graph.node, *model.graph.initializer):
        holder.doc_string = ""
        del holder.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    del model.graph.value_info[:]  # shapes in between: every runtime infers them


def _check(model: onnx.ModelProto, name: str) -> None:
    found = FORBIDDEN.intersection(node.op_type for node in model.graph.node)
    if found:
        raise ExportError(f"{name} holds operations that must not be there: {', '.join(sorted(found))}")
    if model.functions or any(opset.domain for opset in model.opset_import):
        raise ExportError(f"{name} needs operations outside the ONNX standard")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as problem:
        raise ExportError(f"{name} is no valid ONNX graph: {str(problem).partition(chr(10))[0]}") from problem
