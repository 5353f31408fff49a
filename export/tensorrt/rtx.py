"""Target `trt-rtx`: engines for named GPUs, built here without one, and the graph that they were built from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clip_edge.errors import unknown_name
from clip_edge.export.job import GraphJob, Job
from clip_edge.export.tensorrt.package import graph_entry, parse_graph, write_typed
from clip_edge.export.tensorrt.segment import parse_part, part_entry, write_typed_part
from clip_edge.files import human_bytes, write_file
from clip_edge.quantization import Quantization
from clip_edge.runtime.tensorrt import plan
from clip_edge.runtime.tensorrt.builder import Network, build_engine, capabilities
from clip_edge.runtime.tensorrt.header import check_header
from clip_edge.runtime.tensorrt.library import RTX_OLDEST, Library, open_library

DEFAULT = ("sm86", "sm89", "sm120")  # GeForce RTX 30, 40 and 50
PLAN = plan.Plan(
    schema=plan.SCHEMA,
    target="trt-rtx",
    library="TensorRT-RTX",
    oldest=RTX_OLDEST,
    below="2",
    timing_cache=None,
    command="clip-edge build BUNDLE --backend tensorrt-rtx",
    graphs=(),
)


def write_tower(job: Job, path: Path) -> Quantization | None:
    """Write the graph to `path`, an engine for each compute capability beside it, and enter all into build.json.

    Raises:
        UsageError: TensorRT-RTX does not build for a capability (the nearest is named).
        UnavailableError: it is not installed.
        ExportError: it cannot parse or build the graph.
    """
    library = open_library("tensorrt-rtx")
    wanted = job.capabilities or DEFAULT
    check_capabilities(library, wanted)
    report = write_typed(job, path)
    network = parse_graph(job, path, library)
    entry = graph_entry(job, path, network)
    engines = _engines(job, path, network, entry, wanted)
    plan.add_graph(path.parent / plan.NAME, PLAN, replace(entry, engines=engines))
    return report


def write_graph(job: GraphJob, path: Path) -> Quantization | None:
    """Write a graph for segmentation to `path` with its engines, and enter all into segment.json.

    Raises:
        UsageError, UnavailableError, ExportError: as `write_tower`.
    """
    library = open_library("tensorrt-rtx")
    wanted = job.pictures.capabilities or DEFAULT
    report = write_typed_part(job, path)
    network = parse_part(job, path, library)
    entry = part_entry(job, path, network)
    engines = _engines(job.pictures, path, network, entry, wanted)
    plan.add_part(path.parent, PLAN, replace(entry, engines=engines))
    return report


def _engines(
    job: Job, path: Path, network: Network, entry: plan.Graph | plan.Part, wanted: tuple[str, ...]
) -> tuple[plan.Engine, ...]:
    """An engine for each compute capability, written beside the graph."""
    engines, library = [], network.library
    for capability in wanted:
        built = build_engine(network, entry, capability=capability)
        check_header(built.engine, library.version)
        name = f"{path.stem}.{capability}.engine"
        write_file(path.with_name(name), built.engine)
        job.console.say(f"built {name} ({human_bytes(len(built.engine))}) in {built.build_s:.1f} s")
        engines.append(plan.Engine(capability, f"{job.target.folder}/{name}", library.version, len(built.engine)))
    return tuple(engines)


def check_capabilities(library: Library, wanted: tuple[str, ...]) -> None:
    """Raise UsageError for a compute capability that TensorRT-RTX does not build for, naming the nearest."""
    known = capabilities(library)
    for name in wanted:
        if name not in known:
            raise unknown_name("compute capability", name, known)
