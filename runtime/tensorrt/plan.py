"""build.json and segment.json: everything that turns the graphs beside them into engines, on whatever device."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from clip_edge.bundle import Artifact, Bundle, Precision, Tower
from clip_edge.errors import BundleError
from clip_edge.files import json_bytes, parse_json, write_file
from clip_edge.graphs import GraphName, NamedTensor
from clip_edge.schema import as_dict, build

SCHEMA = 1
NAME = "build.json"
SEGMENT = "segment.json"  # the graphs for segmentation: several inputs and outputs, and a free number of points
MAX_BYTES = 4 * 1024 * 1024
MAX_GRAPH_BYTES = 2 * 1024**3  # what one protobuf file can hold
MAX_BATCH = 1024
OLDEST, TOO_NEW = "10.3", "12"  # strongly typed graphs: JetPack 6 to the last release that was read
WORKSPACE_BYTES = 1024**3  # what an 8 GB board can spare while a desktop, the graph and the builder are in memory
OPTIMIZATION_LEVEL = 3  # TensorRT's own default; 4 and 5 try more kernels at once and run small boards out of memory
TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class Profile:
    """The batches that a set of kernels is chosen for: allowed from `min` to `max`, quickest at `opt`."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max <= MAX_BATCH:
            raise ValueError(f"1 ≤ min ≤ opt ≤ max ≤ {MAX_BATCH} expected; found {self.min}, {self.opt}, {self.max}")


Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # the smallest, the best and the largest
PROFILES = (Profile(1, 1, 1), Profile(1, 8, 32))  # one camera frame; an album


POINTS = Profile(2, 2, 16)  # of a prompt: a box has two


@dataclass(frozen=True)
class Engine:
    """An engine that was built ahead of time and lies in the bundle."""

    capability: str
    path: str
    library: str
    bytes: int


@dataclass(frozen=True)
class Graph:
    """One graph and how to build it. `layers` counts the convolutions and matrix products of the parsed network."""

    path: str
    sha256: str
    tower: Tower
    precision: Precision
    opset: int
    input: str
    input_dtype: Literal["float32", "int32"]
    row_shape: tuple[int, ...]
    output: str
    dim: int
    profiles: tuple[Profile, ...]
    workspace_bytes: int
    optimization_level: int
    tf32: bool
    layers: dict[str, int]
    trtexec: str | None
    engines: tuple[Engine, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError("`sha256` must be 64 hexadecimal digits")
        if not self.profiles or not self.row_shape or min(self.row_shape) < 1:
            raise ValueError("`profiles` and `row_shape` must not be empty, and sizes at least 1")

    @property
    def tensors(self) -> tuple[NamedTensor, ...]:
        """What the parsed network takes and gives, in order; null stands for any size."""
        return (
            NamedTensor(self.input, self.input_dtype, (None, *self.row_shape)),
            NamedTensor(self.output, "float32", (None, self.dim)),
        )

    def shapes(self, profile: Profile) -> dict[str, Shapes]:
        """The smallest, best and largest shape of each input."""
        least, best, most = ((batch, *self.row_shape) for batch in (profile.min, profile.opt, profile.max))
        return {self.input: (least, best, most)}

    @property
    def settings(self) -> dict[str, object]:
        """What changes the engine besides graph, library and device. Memory limits the builder, not the engine."""
        return {
            "profiles": [as_dict(profile) for profile in self.profiles],
            "optimization_level": self.optimization_level,
            "tf32": self.tf32,
            "strongly_typed": True,
        }


@dataclass(frozen=True)
class Part:
    """One graph for segmentation and how to build it. The first side of a tensor is the batch, a second null is points.

    `points` are how many a prompt may have.
    """

    path: str
    sha256: str
    graph: GraphName
    precision: Precision
    opset: int
    inputs: tuple[NamedTensor, ...]
    outputs: tuple[NamedTensor, ...]
    profiles: tuple[Profile, ...]
    points: Profile
    workspace_bytes: int
    optimization_level: int
    tf32: bool
    layers: dict[str, int]
    trtexec: str | None
    engines: tuple[Engine, ...] = ()

    @property
    def tensors(self) -> tuple[NamedTensor, ...]:
        """As `Graph.tensors`."""
        return (*self.inputs, *self.outputs)

    def shapes(self, profile: Profile) -> dict[str, Shapes]:
        """As `Graph.shapes`."""
        found: dict[str, Shapes] = {}
        for tensor in self.inputs:
            least, best, most = (
                (batch, *(points if side is None else side for side in tensor.shape[1:]))
                for batch, points in (
                    (profile.min, self.points.min),
                    (profile.opt, self.points.opt),
                    (profile.max, self.points.max),
                )
            )
            found[tensor.name] = least, best, most
        return found


@dataclass(frozen=True)
class SegmentPlan:
    """segment.json."""

    schema: int
    target: Literal["trt", "trt-rtx"]
    library: str
    graphs: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"schema {SCHEMA} expected; found {self.schema}")


@dataclass(frozen=True)
class Plan:
    """The file. `oldest` and `below` are versions of the library; `timing_cache` is a name beside the engines."""

    schema: int
    target: Literal["trt", "trt-rtx"]
    library: str
    oldest: str
    below: str
    timing_cache: str | None
    command: str
    graphs: tuple[Graph, ...]

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"schema {SCHEMA} expected; found {self.schema}")


def add_graph(path: Path, empty: Plan, graph: Graph) -> None:
    """Write `graph` into the plan at `path`, which starts as `empty`; a graph of the same path is replaced."""
    plan = parse_plan(path.read_bytes(), path) if path.exists() else empty
    others = tuple(item for item in plan.graphs if item.path != graph.path)
    write_file(path, json_bytes(as_dict(replace(plan, graphs=(*others, graph)))))


def add_part(folder: Path, empty: Plan, part: Part) -> None:
    """Write `part` into segment.json in `folder`, for the target of `empty`; one of the same path is replaced."""
    path = folder / SEGMENT
    plan = SegmentPlan(SCHEMA, empty.target, empty.library, ())
    if path.exists():
        data = parse_json(path.read_bytes(), where=path, error=BundleError)
        plan = build(SegmentPlan, data, where=path, error=BundleError)
    others = tuple(item for item in plan.graphs if item.path != part.path)
    write_file(path, json_bytes(as_dict(replace(plan, graphs=(*others, part)))))


def parse_plan(data: bytes, where: Path) -> Plan:
    """The plan in a file's bytes.

    Raises:
        BundleError: it is none.
    """
    return build(Plan, parse_json(data, where=where, error=BundleError), where=where, error=BundleError)


def read_graph(bundle: Bundle, artifact: Artifact) -> Graph:
    """What the bundle says about building `artifact`, checked against the manifest.

    Raises:
        BundleError: there is no plan, or it contradicts the manifest.
    """
    name = f"{artifact.path.rpartition('/')[0]}/{NAME}"
    plan = parse_plan(bundle.read(name, MAX_BYTES), bundle.folder / name)
    for graph in plan.graphs:
        if graph.path == artifact.path:
            _check(graph, artifact, bundle, name)
            return graph
    raise BundleError(f"{name} does not hold {artifact.path}", where=bundle.folder, hint="export the model again")


def _check(graph: Graph, artifact: Artifact, bundle: Bundle, name: str) -> None:
    manifest = bundle.manifest
    size, length = manifest.image.preprocess.size, manifest.text.tokenizer.context_length
    pairs: dict[str, tuple[object, object]] = {
        "sha256": (graph.sha256, manifest.files[artifact.path].sha256),
        "precision": (graph.precision, artifact.precision),
        "input": (graph.input, artifact.input),
        "input_dtype": (graph.input_dtype, artifact.input_dtype),
        "output": (graph.output, artifact.output),
        "dim": (graph.dim, manifest.embedding.dim),
        "row_shape": (graph.row_shape, (3, size, size) if artifact.tower == "image" else (length,)),
    }
    for key, (found, expected) in pairs.items():
        if found != expected:
            raise BundleError(
                f"{name} contradicts the manifest: `{key}` of {graph.path} is {found}, {expected} expected",
                where=bundle.folder / name,
                hint="export the model again",
            )
