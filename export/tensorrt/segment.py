"""The graphs for segmentation for TensorRT: strongly typed like the towers, and listed in segment.json."""

from __future__ import annotations

from pathlib import Path

import onnx

from clip_edge.export.job import GraphJob
from clip_edge.export.onnx import save, traced_graph
from clip_edge.export.targets import graph_file_name
from clip_edge.export.tensorrt.precisions import lower, typed
from clip_edge.files import sha256_file
from clip_edge.graphs import NamedTensor
from clip_edge.quantization import Quantization
from clip_edge.runtime.tensorrt import plan
from clip_edge.runtime.tensorrt.builder import Network, check_contract, parse
from clip_edge.runtime.tensorrt.library import Library


def write_typed_part(job: GraphJob, path: Path) -> Quantization | None:
    """The strongly typed graph in the precision of the job."""
    lowered, report = lower(typed(traced_graph(job)), job.pictures)
    save(lowered, path)
    return report


def parse_part(job: GraphJob, path: Path, library: Library) -> Network:
    """The graph as the library reads it, held against what segment.json will promise."""
    network = parse(library, path.read_bytes(), path.name)
    check_contract(network, part_entry(job, path, network))
    return network


def part_entry(job: GraphJob, path: Path, network: Network | None) -> plan.Part:
    """What segment.json says about the graph at `path`."""
    tower, declaration = job.pictures, job.declaration
    model = onnx.load(path).graph
    types = {**declaration.inputs, **dict.fromkeys(declaration.outputs, "float32")}
    tensors = {
        value.name: tuple(side.dim_value or None for side in value.type.tensor_type.shape.dim)
        for value in (*model.input, *model.output)
    }
    inputs, outputs = (
        tuple(NamedTensor(name, types[name], tensors[name]) for name in names)  # type: ignore[arg-type]
        for names in (declaration.inputs, declaration.outputs)
    )
    return plan.Part(
        path=graph_file_name(tower.target, job.graph, tower.precision),
        sha256=sha256_file(path),
        graph=job.graph,
        precision=tower.precision,
        opset=tower.target.opset,
        inputs=inputs,
        outputs=outputs,
        profiles=plan.PROFILES,
        points=plan.POINTS,
        workspace_bytes=plan.WORKSPACE_BYTES,
        optimization_level=plan.OPTIMIZATION_LEVEL,
        tf32=False,
        layers={} if network is None else network.counts,
        trtexec=None,
    )
