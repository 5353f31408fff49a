"""Target `trt`: strongly typed graphs and build.json, from which the device builds its engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import onnx
import torch
from torch import nn

from clip_edge.errors import UnavailableError
from clip_edge.export.job import GraphJob, Job
from clip_edge.export.onnx import clean, save, trace
from clip_edge.export.targets import file_name
from clip_edge.export.tensorrt.precisions import lower, typed
from clip_edge.export.tensorrt.segment import parse_part, part_entry, write_typed_part
from clip_edge.files import sha256_file
from clip_edge.quantization import Quantization
from clip_edge.runtime.tensorrt import plan
from clip_edge.runtime.tensorrt.builder import Network, check_contract, parse
from clip_edge.runtime.tensorrt.library import Library, open_library

PLAN = plan.Plan(
    schema=plan.SCHEMA,
    target="trt",
    library="TensorRT",
    oldest=plan.OLDEST,
    below=plan.TOO_NEW,
    timing_cache=plan.TIMING_CACHE,
    command="clip-edge build BUNDLE",
    graphs=(),
)
_traced: WeakKeyDictionary[nn.Module, onnx.ModelProto] = WeakKeyDictionary()


def write_tower(job: Job, path: Path) -> Quantization | None:
    """Write the graph to `path` and enter it into build.json. No engine is built: that takes the device's own GPU.

    Where TensorRT-RTX is installed its parser, which TensorRT shares, reads the graph.

    Raises:
        ExportError: the tower cannot be traced or lowered, or the parser refuses it.
    """
    report = write_typed(job, path)
    library = _parser(job, path)
    entry = graph_entry(job, path, None if library is None else parse_graph(job, path, library))
    plan.add_graph(path.parent / plan.NAME, PLAN, replace(entry, trtexec=trtexec_line(entry)))
    job.console.say(f"no engine was built for {entry.path}: run `{PLAN.command}` on the device")
    return report


def write_graph(job: GraphJob, path: Path) -> Quantization | None:
    """Write a graph for segmentation to `path` and enter it into segment.json, with the line that builds it.

    Raises:
        ExportError: as `write_tower`.
    """
    report = write_typed_part(job, path)
    library = _parser(job.pictures, path)
    entry = part_entry(job, path, None if library is None else parse_part(job, path, library))
    plan.add_part(path.parent, PLAN, replace(entry, trtexec=trtexec_line(entry)))
    return report


def _parser(job: Job, path: Path) -> Library | None:
    try:
        return open_library("tensorrt-rtx")
    except UnavailableError as problem:
        job.console.warn(f"{path.name} was not parsed by TensorRT: {problem.what}")
        return None


def write_typed(job: Job, path: Path) -> Quantization | None:
    """The strongly typed graph of a tower in the precision of the job."""
    model = onnx.ModelProto()
    model.CopyFrom(_trace(job))
    lowered, report = lower(model, job)
    save(lowered, path)
    return report


def parse_graph(job: Job, path: Path, library: Library) -> Network:
    """The graph as the library reads it, held against what the bundle will promise."""
    network = parse(library, path.read_bytes(), path.name)
    check_contract(network, graph_entry(job, path, network))
    return network


def graph_entry(job: Job, path: Path, network: Network | None) -> plan.Graph:
    """What build.json says about the graph at `path`."""
    return plan.Graph(
        path=file_name(job.target, job.tower, job.precision),
        sha256=sha256_file(path),
        tower=job.tower,
        precision=job.precision,
        opset=job.target.opset,
        input=job.declaration.input,
        input_dtype="float32" if job.tower == "image" else "int32",
        row_shape=tuple(job.example.shape[1:]),
        output=job.declaration.output,
        dim=job.source.dim,
        profiles=plan.PROFILES,
        workspace_bytes=plan.WORKSPACE_BYTES,
        optimization_level=plan.OPTIMIZATION_LEVEL,
        tf32=False,
        layers={} if network is None else network.counts,
        trtexec=None,
    )


def trtexec_line(graph: plan.Graph | plan.Part) -> str:
    """The same build with TensorRT's own tool, started in the bundle; `clip-edge build` adds the checks."""
    name = Path(graph.path).name
    words = [
        f"trtexec --onnx={graph.path} --stronglyTyped --noTF32"
    ]  # from 11 on the second is the default, and allowed
    for number, profile in enumerate(graph.profiles):
        words.append(f"--profile={number}")
        shapes = graph.shapes(profile)
        for index, kind in enumerate(("min", "opt", "max")):
            each = (f"{name}:{'x'.join(map(str, sizes[index]))}" for name, sizes in shapes.items())
            words.append(f"--{kind}Shapes={','.join(each)}")
    words.append(f"--memPoolSize=workspace:{graph.workspace_bytes // 1024**2}M")
    words.append(f"--builderOptimizationLevel={graph.optimization_level} --timingCacheFile={plan.TIMING_CACHE}")
    words.append(f"--profilingVerbosity=detailed --skipInference --saveEngine={name.removesuffix('.onnx')}.engine")
    return " ".join(words)


def _trace(job: Job) -> onnx.ModelProto:
    """The fp32 graph of a tower, traced once for all precisions, with masks that every type can hold."""
    if job.module not in _traced:
        example = job.example.to(getattr(torch, job.declaration.input_dtype))
        model = trace(job.module, example, job.declaration, job.target.opset)
        clean(model)
        _traced[job.module] = typed(model)
    return _traced[job.module]
