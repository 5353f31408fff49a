"""`clip-edge build`: the engines of a bundle, made on this machine, kept, and checked layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clip_edge.bundle import Artifact, Bundle
from clip_edge.console import SILENT, Console
from clip_edge.errors import UnavailableError, UsageError, unknown_name
from clip_edge.files import human_bytes, sha256_bytes, write_file
from clip_edge.runtime.backends import BACKENDS
from clip_edge.runtime.tensorrt import cache
from clip_edge.runtime.tensorrt.builder import Built, Network, build_engine, capabilities, check_contract, parse
from clip_edge.runtime.tensorrt.cuda import Cuda, Device, open_cuda
from clip_edge.runtime.tensorrt.engine import EngineTower
from clip_edge.runtime.tensorrt.header import check_header
from clip_edge.runtime.tensorrt.judge import Judgement, judge
from clip_edge.runtime.tensorrt.library import Library, open_library
from clip_edge.runtime.tensorrt.plan import MAX_GRAPH_BYTES, TIMING_CACHE, Graph, read_graph

MIN_WORKSPACE = 16 * 1024**2


@dataclass(frozen=True)
class Result:
    """One engine. `reason` says why it was built, or that it was kept; without a GPU there is no `judgement`."""

    graph: str
    precision: str
    capability: str
    engine: str
    built: bool
    reason: str
    build_s: float
    engine_bytes: int
    layers: dict[str, int]
    judgement: Judgement | None

    @property
    def problem(self) -> str | None:
        """Why the engine must not be used, or None."""
        return None if self.judgement is None else self.judgement.problem


@dataclass(frozen=True)
class Place:
    """What engines are built for: the GPU of this machine, or a capability that TensorRT-RTX was given by name."""

    device: Device
    cuda: Cuda | None


def build_bundle(
    path: Path,
    backend: str = "tensorrt",
    *,
    precision: str | None = None,
    device: int = 0,
    workspace_bytes: int | None = None,
    engines: Path | None = None,
    named: Sequence[str] = (),
    console: Console = SILENT,
) -> list[Result]:
    """Build every graph of the bundle that `backend` runs, unless the same engine was built before.

    Args:
        precision: only this one.
        workspace_bytes: memory that the builder may try kernels with; None: what build.json says.
        engines: the folder to keep engines in; None: the user's cache.
        named: compute capabilities to build for without their GPU; TensorRT-RTX only.

    Raises:
        UsageError: options that cannot be; unknown precision or capability (the nearest is named).
        UnavailableError: no library, no GPU, or others may write into the folder.
        BundleError: the bundle is damaged, or has nothing for this backend.
        ExportError: the library cannot parse or build a graph.
    """
    if workspace_bytes is not None and workspace_bytes < MIN_WORKSPACE:
        raise UsageError(f"the workspace must be at least {human_bytes(MIN_WORKSPACE)}; found {workspace_bytes} bytes")
    library = open_library(backend)
    bundle = Bundle.open(path)
    graphs = [_limited(read_graph(bundle, item), workspace_bytes) for item in _artifacts(bundle, backend, precision)]
    places = _places(library, device, named)
    folder = engines or cache.default_folder()
    cache.make_folder(folder)
    results = []
    with console.progress("building engines", total=len(graphs) * len(places), unit="engines") as meter:
        for graph in graphs:
            for place in places:
                results.append(_engine(library, bundle, graph, place, folder, console))
                meter.advance()
    return results


def _artifacts(bundle: Bundle, backend: str, precision: str | None) -> list[Artifact]:
    targets = BACKENDS[backend].targets
    if precision is not None:
        return [bundle.manifest.artifact(tower, targets, precision) for tower in ("image", "text")]
    return [item for tower in ("image", "text") for item in bundle.manifest.fitting(tower, targets).values()]


def _limited(graph: Graph, workspace_bytes: int | None) -> Graph:
    return graph if workspace_bytes is None else replace(graph, workspace_bytes=workspace_bytes)


def _places(library: Library, index: int, named: Sequence[str]) -> list[Place]:
    if named and not library.is_rtx:
        raise UsageError(
            f"{library.title} builds for the GPU of this machine only",
            hint="leave --compute-capability out, or take --backend tensorrt-rtx",
        )
    for name in named:
        if name not in capabilities(library):
            raise unknown_name("compute capability", name, capabilities(library))
    if named:
        return [Place(Device(index, "", name, 0, 0), None) for name in dict.fromkeys(named)]
    try:
        cuda = open_cuda(index)
    except UnavailableError as problem:
        if not library.is_rtx:
            raise
        hint = "name the GPUs to build for, such as --compute-capability sm89"
        raise UnavailableError(problem.what, hint=hint) from problem
    return [Place(cuda.device(), cuda)]


def _engine(library: Library, bundle: Bundle, graph: Graph, place: Place, folder: Path, console: Console) -> Result:
    """The engine that is there, or a new one; one that failed its check is not kept."""
    key = cache.engine_key(graph, library, place.device.name, place.device.capability)
    file = str(folder / f"{key.name}.engine")
    found = cache.find(folder, key)
    if not isinstance(found, str):
        entry = found[1]
        if entry.workspace_bytes == graph.workspace_bytes:
            reason = "built before from the same graph, library, device and settings"
            names = (graph.path, graph.precision, key.capability, file, False, reason)
            return Result(*names, entry.build_s, entry.engine_bytes, entry.layers, None)
        found = "another memory limit"
    _warn_of_memory(graph, place, console)
    network = parse(library, bundle.read(graph.path, MAX_GRAPH_BYTES), graph.path)
    check_contract(network, graph)
    built = _build(network, graph, place, folder)
    judgement = _judge(library, graph, place, network, built)
    names = (graph.path, graph.precision, key.capability, file, True, found)
    result = Result(*names, built.build_s, len(built.engine), network.counts, judgement)
    if result.problem is None:
        sizes = (sha256_bytes(built.engine), len(built.engine), graph.workspace_bytes)
        cache.store(folder, cache.Entry(key, graph.path, *sizes, built.build_s, network.counts), built.engine)
    return result


def _build(network: Network, graph: Graph, place: Place, folder: Path) -> Built:
    library = network.library
    if library.is_rtx:
        built = build_engine(network, graph, capability=place.device.capability)
        check_header(built.engine, library.version)
        return built
    built = build_engine(network, graph, timing=cache.read_timing(folder, TIMING_CACHE))
    if built.timing is not None:
        write_file(folder / TIMING_CACHE, built.timing)
    return built


def _judge(library: Library, graph: Graph, place: Place, network: Network, built: Built) -> Judgement | None:
    """TensorRT-RTX chooses kernels when an engine is loaded: its network is typed, and nothing is left to inspect."""
    if place.cuda is None or library.is_rtx:
        return None
    return judge(network.layers, EngineTower(library, place.cuda, graph, built.engine).layer_information())


def _warn_of_memory(graph: Graph, place: Place, console: Console) -> None:
    if place.cuda is not None and place.device.free_bytes < graph.workspace_bytes:
        console.warn(
            f"only {human_bytes(place.device.free_bytes)} of the GPU's memory are free, and the builder may take "
            f"{human_bytes(graph.workspace_bytes)}: close other programs, add swap, or lower --workspace"
        )
