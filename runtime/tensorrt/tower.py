"""Opening a tower of a bundle with an engine of this machine: what both backends do."""

from __future__ import annotations

from pathlib import Path

from clip_edge.bundle import Artifact, Bundle
from clip_edge.errors import UnavailableError
from clip_edge.runtime.backends import Options, Run
from clip_edge.runtime.tensorrt import cache
from clip_edge.runtime.tensorrt.cuda import Device, open_cuda
from clip_edge.runtime.tensorrt.engine import EngineTower
from clip_edge.runtime.tensorrt.library import Library, open_library
from clip_edge.runtime.tensorrt.plan import Graph, read_graph


def open_engine(name: str, bundle: Bundle, artifact: Artifact, options: Options) -> Run:
    """The tower in the library `name`, from an engine in the bundle or one that `clip-edge build` made.

    Raises:
        UnavailableError: no library, no GPU, or no engine for this GPU.
        BundleError: the bundle was changed, or has no plan.
    """
    library = open_library(name)
    cuda = open_cuda(options.device)
    graph = read_graph(bundle, artifact)
    engine = find_engine(library, bundle, graph, cuda.device(), options.engines or cache.default_folder())
    return EngineTower(library, cuda, graph, engine)


def find_engine(library: Library, bundle: Bundle, graph: Graph, device: Device, folder: Path) -> bytes:
    """An engine for `device` whose hash is known: from the bundle's own list, or from the folder of built ones.

    Raises:
        UnavailableError: there is none, with the reason.
    """
    for engine in graph.engines:
        if (engine.capability, engine.library) == (device.capability, library.version):
            return bundle.read(engine.path, cache.MAX_ENGINE_BYTES)
    found = cache.find(folder, cache.engine_key(graph, library, device.name, device.capability))
    if isinstance(found, str):
        raise UnavailableError(
            f"no engine of {graph.path} for {device.name} ({device.capability}) and {library.title} {library.version}: "
            f"{found}",
            where=folder,
            hint=f"`clip-edge build {bundle.folder} --backend {library.name}` makes it",
        )
    return found[0]
