"""What a folder or file is: a data set, a student, a run, a bundle or a report, with its key facts. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from clip_edge.errors import CheckpointError, ClipEdgeError, DataError, UsageError
from clip_edge.files import human_bytes, inside, read_json, sha256_file


@dataclass(frozen=True)
class Inspection:
    """What is at a path. `facts` are plain values with units in their names; `problems` are damages found."""

    kind: str
    path: str
    facts: dict[str, Any]
    licences: tuple[str, ...]
    research_only: bool
    problems: tuple[str, ...]


def inspect(path: Path) -> Inspection:
    """Find out what is at `path`, and check its hashes where it has any.

    Raises:
        UsageError: nothing there, or nothing that clip-edge knows; the message says what was looked for.
        ClipEdgeError: it is what it seems to be, and cannot be read.
    """
    if not path.exists():
        raise UsageError(f"no such file or folder: {path}")
    for kind in KINDS:
        if kind.fits(path):
            return kind.read(path)
    looked = "\n  ".join(f"{kind.name}: {kind.mark}" for kind in KINDS)
    raise UsageError(
        f"nothing that clip-edge knows; looked for\n  {looked}",
        where=path,
        hint="name the folder itself, not the one around it",
    )


@dataclass(frozen=True)
class _Kind:
    """One thing that can be inspected: how it is recognised, in code and in words, and how it is read."""

    name: str
    mark: str
    fits: Callable[[Path], bool]
    read: Callable[[Path], Inspection]


def _holds(name: str) -> Callable[[Path], bool]:
    return lambda path: (path / name).is_file()


def _bundle(path: Path) -> Inspection:
    from clip_edge.bundle import Bundle

    manifest = Bundle.open(path).manifest  # raises when a hash is wrong
    graphs = [
        {
            "tower": item.tower,
            "target": item.target,
            "precision": item.precision,
            "path": item.path,
            "bytes": manifest.size_bytes(item.path),
            "parameters": item.parameters,
            "min_cosine": None if item.verification is None else item.verification.min_cosine,
        }
        for item in manifest.artifacts
    ]
    parts = [
        {
            "graph": item.graph,
            "target": item.target,
            "precision": item.precision,
            "path": item.path,
            "bytes": manifest.size_bytes(item.path),
            "inputs": [tensor.name for tensor in item.inputs],
            "outputs": [tensor.name for tensor in item.outputs],
            "min_cosine": None if item.verification is None else item.verification.min_cosine,
        }
        for item in manifest.graphs
    ]
    picture, text = manifest.image.preprocess, manifest.text
    facts = {
        "name": manifest.name,
        "made_by": manifest.created_by,
        "embedding_dim": manifest.embedding.dim,
        "embedding_space": manifest.embedding.space,
        "logit_scale": manifest.embedding.logit_scale,
        "image_px": picture.size,
        "interpolation": picture.interpolation,
        "context_length": text.tokenizer.context_length,
        "graphs": graphs,
        **({"graphs_for_segmentation": parts} if parts else {}),
        "files": len(manifest.files),
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "hashes": "all equal",
        "weights_sha256": manifest.source.weights_sha256,
    }
    if manifest.source.provenance.get("weights") == "random":
        facts["weights"] = "RANDOM: good for measuring speed and size, and for nothing else"
    licences = tuple(licence_words(vars(licence)) for licence in manifest.licences)
    return Inspection("bundle", str(path), facts, licences, manifest.research_only, ())


def _student(path: Path) -> Inspection:
    info = _table(read_json(path / "model.json", error=CheckpointError), path / "model.json", CheckpointError)
    spec = _table(info.get("student"), path / "model.json", CheckpointError)
    weights = path / "model.safetensors"
    tensors, values = _count_values(weights)
    licences = [_table(item, path / "model.json", CheckpointError) for item in _list(info.get("licences"))]
    facts = {
        "name": info.get("name"),
        "embedding_dim": spec.get("embed_dim"),
        "image_tower": _get(spec, "image", "tower"),
        "image_px": _get(spec, "image", "size"),
        "context_length": _get(spec, "text", "context_length"),
        "tensors": tensors,
        "values": values,
        "bytes": weights.stat().st_size,
        "weights_sha256": sha256_file(weights),
        "provenance": info.get("provenance"),
    }
    return Inspection(
        "student", str(path), facts, tuple(map(licence_words, licences)), info.get("research_only") is True, ()
    )


def _count_values(weights: Path) -> tuple[int, int]:
    """The numbers of tensors and of values in a safetensors file, from its header."""
    try:
        with safe_open(weights, framework="numpy") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(f"the weights cannot be read: {problem}", where=weights) from problem
    return len(shapes), sum(prod(shape) for shape in shapes)


def _run(path: Path) -> Inspection:
    begun = _table(read_json(path / "run.json", error=CheckpointError), path / "run.json", CheckpointError)
    finished = (path / "student" / "model.json").is_file()
    identity = _table(begun.get("identity", {}), path / "run.json", CheckpointError)
    states = sorted(folder.name for folder in (path / "state").glob("step-*")) if (path / "state").is_dir() else []
    facts = {
        "recipe": identity.get("recipe"),
        "data": identity.get("name"),
        "samples": identity.get("samples"),
        "finished": finished,
        "checkpoints": states,
    }
    if not finished:
        return Inspection("run", str(path), facts, (), False, ())
    student = _student(path / "student")
    return Inspection(
        "run", str(path), facts | {"student": student.facts}, student.licences, student.research_only, student.problems
    )


def _dataset(path: Path) -> Inspection:
    file = path / "dataset.json"
    info = _table(read_json(file, error=DataError), file, DataError)
    splits = _table(info.get("splits"), file, DataError)
    problems, counts = [], {}
    for name, split in splits.items():
        table = _table(split, file, DataError)
        counts[name] = table.get("samples")
        for shard in _list(table.get("shards")):
            problems += _shard_problems(path, _table(shard, file, DataError))
    facts = {
        "name": info.get("name"),
        "made_by": info.get("created_by"),
        "image_px": info.get("size"),
        "languages": info.get("langs"),
        "samples": counts,
        "seed": info.get("seed"),
        "hashes": "all equal" if not problems else f"{len(problems)} differ",
    }
    licence = info.get("licence")
    licences = (str(licence.get("name")),) if isinstance(licence, dict) else ()
    return Inspection("data set", str(path), facts, licences, False, tuple(problems))


def _shard_problems(folder: Path, shard: Mapping[str, Any]) -> list[str]:
    name = str(shard.get("path"))
    file = inside(folder, name, error=DataError)
    if not file.is_file():
        return [f"{name} is missing"]
    return [] if sha256_file(file) == shard.get("sha256") else [f"{name} was changed: its SHA-256 differs"]


def _report(path: Path) -> Inspection:
    from clip_edge.benchmarks.report import read_report

    report = read_report(path)
    facts = {
        "made_by": report.created_by,
        "measured": report.created_at,
        "cpu": report.environment.cpu,
        "bundles": report.bundles,
        "rows": len(report.results),
        "samples": sum(len(row.samples_s) for row in report.results),
        "scenarios": sorted({row.scenario for row in report.results}),
        "warnings": list(report.warnings),
    }
    return Inspection("report", str(path), facts, (), False, ())


def _is_report(path: Path) -> bool:
    return (path / "report.json").is_file() or (path.is_file() and path.suffix == ".json")


KINDS = (
    _Kind("bundle", "a folder with manifest.json", _holds("manifest.json"), _bundle),
    _Kind("student", "a folder with model.json", _holds("model.json"), _student),
    _Kind("run", "a folder with run.json", _holds("run.json"), _run),
    _Kind("data set", "a folder with dataset.json (others: `clip-edge data check`)", _holds("dataset.json"), _dataset),
    _Kind("report", "report.json, or a folder with it", _is_report, _report),
)


def _table(value: object, where: Path, error: type[ClipEdgeError]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise error(f"{where.name}: a table expected; found {type(value).__name__}", where=where)
    return value


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _get(table: Mapping[str, Any], *names: str) -> Any:
    """The value below nested tables, or None where one is missing."""
    value: Any = table
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def licence_words(table: Mapping[str, Any]) -> str:
    """A licence on one line, with the flag that matters."""
    flag = " (research only)" if table.get("research_only") is True else ""
    return f"{table.get('applies_to')}: {table.get('name')}{flag}"


def words(value: object) -> str:
    """A fact as a person reads it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return "\n".join(words(item) for item in value) if value and isinstance(value[0], Mapping) else _joined(value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)


def _joined(items: list[Any] | tuple[Any, ...]) -> str:
    return ", ".join(words(item) for item in items) or "none"


def size_words(name: str, value: object) -> str:
    """`words`, with bytes in the unit a person would use."""
    return human_bytes(value) if name == "bytes" and isinstance(value, int) else words(value)
