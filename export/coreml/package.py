"""The .mlpackage itself: three files whose bytes depend on the model alone, and a package of two functions.

Layout of Manifest.json and of weight.bin: as coremltools 9.0 writes them. Its own identifiers are random and its
metadata holds the date, so both are set here.
"""

from __future__ import annotations

import hashlib
import json
import struct
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clip_edge import __version__
from clip_edge.export.coreml.interface import Interface
from clip_edge.export.coreml.tools import coremltools
from clip_edge.files import json_bytes, write_file
from clip_edge.schema import as_dict

MANIFEST = "Manifest.json"
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
ALIGNMENT = 64  # of records and data in weight.bin
NAMESPACE = uuid.UUID("5f3c1a7e-0d7e-5b0a-9c55-c11be09e0001")  # ours: any constant will do
ITEMS = {
    "com.apple.CoreML/model.mlmodel": ("model.mlmodel", "CoreML Model Specification"),
    "com.apple.CoreML/weights": ("weights", "CoreML Model Weights"),
}


def package_files(model: Any, face: Interface) -> dict[str, bytes]:
    """The files of a package by path, with metadata and descriptions filled in."""
    spec = model.get_spec()
    describe(spec, face)
    weights = Path(model.weights_dir) / "weight.bin"
    return _files(spec, weights.read_bytes() if weights.exists() else _header(0))


def write_package(files: Mapping[str, bytes], path: Path) -> None:
    """Write a package as a folder."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        write_file(path / name, data)


def read_package(path: Path) -> dict[str, bytes]:
    """The files of a package on disk."""
    return {name: (path / name).read_bytes() for name in (MANIFEST, MODEL, WEIGHTS)}


def describe(spec: Any, face: Interface) -> None:
    """What Xcode shows: names, licence, and what an app must know about input and output."""
    job, source, description = face.job, face.job.source, spec.description
    metadata = description.metadata
    metadata.Clear()
    metadata.shortDescription = f"{source.name}: the {face.name} of a CLIP model, {job.precision}"
    metadata.author = f"clip-edge {__version__}"
    names = dict.fromkeys(f"{licence.name} ({licence.applies_to})" for licence in source.licences)
    metadata.license = "; ".join(names) + (" — research only" if source.research_only else "")
    metadata.versionString = source.weights_sha256()[:12]
    spec_image = source.preprocess
    facts = {
        "embedding_space": source.embedding().space,
        "tower": face.name.removesuffix(" tower"),
        "precision": job.precision,
        "logit_scale": str(source.logit_scale),
        "preprocess": json.dumps(as_dict(spec_image)) if job.tower == "image" else "",
    }
    for key, value in facts.items():
        metadata.userDefined[f"clip-edge.{key}"] = value
    for item in (*description.input, *description.output):
        item.shortDescription = face.words[item.name]


def add_function(files: Mapping[str, bytes] | None, name: str, single: Mapping[str, bytes]) -> dict[str, bytes]:
    """`files` (a package of functions, or None to begin one) with the program of `single` as one more function.

    A constant that stands in both is stored once.
    """
    model_proto = coremltools().proto.Model_pb2.Model
    addition = model_proto.FromString(single[MODEL])
    if files is None:
        spec, weights = model_proto.FromString(single[MODEL]), _header(0)
        spec.mlProgram.functions.clear()
        del spec.description.input[:], spec.description.output[:]
        spec.description.defaultFunctionName = name
    else:
        spec, weights = model_proto.FromString(files[MODEL]), files[WEIGHTS]
    spec.specificationVersion = max(spec.specificationVersion, addition.specificationVersion)
    weights, moved = _merged(weights, single[WEIGHTS])
    function = addition.mlProgram.functions["main"]
    for value in _stored_values(function):
        value.offset = moved[value.offset]
    spec.mlProgram.functions[name].CopyFrom(function)
    described = spec.description.functions.add()
    described.name = name
    described.input.extend(addition.description.input)
    described.output.extend(addition.description.output)
    return _files(spec, weights)


def _files(spec: Any, weights: bytes) -> dict[str, bytes]:
    entries = {}
    for path, (name, description) in ITEMS.items():
        entry = {"author": "com.apple.CoreML", "description": description, "name": name, "path": path}
        entries[str(uuid.uuid5(NAMESPACE, path))] = entry
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": str(uuid.uuid5(NAMESPACE, next(iter(ITEMS)))),
    }
    return {MANIFEST: json_bytes(manifest), MODEL: spec.SerializeToString(deterministic=True), WEIGHTS: weights}


def _header(count: int) -> bytes:
    """The first 64 bytes of weight.bin: how many constants follow, and version 2."""
    return struct.pack("<II56x", count, 2)


def _merged(weights: bytes, more: bytes) -> tuple[bytes, dict[int, int]]:
    """`weights` with the constants of `more`, and where each of those now has its record."""
    out = bytearray(weights)
    known = {key: record for record, key in _records(weights)}
    moved = {}
    for record, key in _records(more):
        if key not in known:
            sentinel, kind, size, start, padding = struct.unpack_from("<IIQQQ", more, record)
            out += bytes(-len(out) % ALIGNMENT)
            known[key] = len(out)
            out += struct.pack("<IIQQQ32x", sentinel, kind, size, len(out) + 64, padding)
            out += more[start : start + size]
        moved[record] = known[key]
    out[:64] = _header(len(known))
    return bytes(out), moved


def _records(weights: bytes) -> Iterator[tuple[int, bytes]]:
    """Each constant: the place of its record, and what tells it from others (type and content)."""
    (count,) = struct.unpack_from("<I", weights)
    record = 64
    for _ in range(count):
        _, kind, size, start = struct.unpack_from("<IIQQ", weights, record)
        yield record, struct.pack("<IQ", kind, size) + hashlib.sha256(weights[start : start + size]).digest()
        record = start + size + -(start + size) % ALIGNMENT


def _stored_values(function: Any) -> Iterator[Any]:
    """Every reference to weight.bin in a function."""
    for block in function.block_specializations.values():
        for operation in block.operations:
            values = [*operation.attributes.values()]
            values += [item.value for given in operation.inputs.values() for item in given.arguments]
            yield from (value.blobFileValue for value in values if value.WhichOneof("value") == "blobFileValue")
