"""The student folder: weights, architecture, preprocessing and tokenizer, written and read without pickle."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from clip_edge.distill.models.spec import Licence, StudentSpec
from clip_edge.distill.models.student import Student, build_student, count_parameters
from clip_edge.distill.models.weights import assign, read_state, refuse_differences
from clip_edge.errors import CheckpointError, ConfigError, UsageError
from clip_edge.files import read_json, write_file, write_json
from clip_edge.preprocess import PreprocessSpec
from clip_edge.schema import as_dict, build
from clip_edge.tokenizer import TextSpec, Tokenizer

SCHEMA = 1
HINT = "a student folder is made by `clip-edge distill`; copy it again as a whole"


@dataclass(frozen=True)
class Embedding:
    """What leaves both towers."""

    dim: int
    normalized: bool


@dataclass(frozen=True)
class ModelInfo:
    """model.json. `research_only` is true when any licence is."""

    schema: int
    name: str
    student: StudentSpec
    text: TextSpec
    embedding: Embedding
    licences: list[Licence]
    research_only: bool
    provenance: dict[str, Any]


@dataclass(frozen=True)
class LoadedStudent:
    """A student ready to embed: eval mode, fp32, on the CPU. `info` is model.json as a dictionary."""

    student: Student
    spec: StudentSpec
    tokenizer: Tokenizer
    preprocess: PreprocessSpec
    folder: Path
    info: dict[str, Any]


def save_student(
    folder: Path,
    student: Student,
    tokenizer: Tokenizer,
    *,
    recipe_toml: str,
    metrics: Path | None,
    provenance: Mapping[str, Any],
    examples: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> None:
    """Write a student into `folder`, which exists (see `files.new_folder`). The same student gives the same bytes."""
    from safetensors.numpy import save as save_arrays
    from safetensors.torch import save as save_tensors

    tokens = student.spec.tokenizer.of_folder()
    spec = dataclasses.replace(student.spec, parameters=count_parameters(student), tokenizer=tokens)
    info = ModelInfo(
        schema=SCHEMA,
        name=spec.name,
        student=spec,
        text=tokenizer.spec,
        embedding=Embedding(spec.embed_dim, normalized=True),
        licences=student.licences,
        research_only=any(licence.research_only for licence in student.licences),
        provenance=dict(provenance),
    )
    state = {name: value.detach().cpu().contiguous() for name, value in student.state_dict().items()}
    write_file(folder / "model.safetensors", save_tensors(state, {"format": "pt"}))
    write_json(folder / "model.json", as_dict(info))
    write_json(folder / "preprocess.json", as_dict(spec.image.preprocess()))
    write_file(folder / "tokenizer.json", tokenizer.json_bytes)
    write_file(folder / "recipe.toml", recipe_toml.encode())
    if metrics is None:
        write_file(folder / "metrics.jsonl", b"")
    else:
        shutil.copyfile(metrics, folder / "metrics.jsonl")
    if examples is not None:
        write_file(folder / "examples.safetensors", save_arrays(dict(examples)))


def load_student(path: Path) -> LoadedStudent:
    """The student in `path`, a student folder or the folder of a finished training run.

    Raises:
        UsageError: no student in `path`.
        CheckpointError: a file in it is missing, damaged, or belongs to another student.
    """
    folder = _find(Path(path))
    info = read_info(folder)
    preprocess = build(
        PreprocessSpec,
        read_json(folder / "preprocess.json", error=CheckpointError, hint=HINT),
        where=folder / "preprocess.json",
        error=CheckpointError,
        hint=HINT,
    )
    if preprocess != info.student.image.preprocess():
        raise CheckpointError(
            "preprocess.json and model.json describe different pictures", where=folder / "preprocess.json", hint=HINT
        )
    tokenizer = Tokenizer.load(folder / "tokenizer.json", info.text)
    student = _build(info, tokenizer, folder)
    student.licences.extend(info.licences)
    return LoadedStudent(student, info.student, tokenizer, preprocess, folder, as_dict(info))


def read_info(folder: Path) -> ModelInfo:
    """model.json of a student folder, checked.

    Raises:
        CheckpointError: missing, damaged, or of another version.
    """
    path = folder / "model.json"
    data = read_json(path, error=CheckpointError, hint=HINT)
    schema = data.get("schema") if isinstance(data, dict) else None
    if isinstance(schema, int) and schema != SCHEMA:
        raise CheckpointError(
            f"expected model.json of schema {SCHEMA}; found {schema}",
            where=path,
            hint="install the version of clip-edge that wrote it, or train again",
        )
    info = build(ModelInfo, data, where=path, error=CheckpointError, hint=HINT)
    if info.embedding != Embedding(info.student.embed_dim, normalized=True) or info.name != info.student.name:
        raise CheckpointError("model.json contradicts itself: `name` or `embedding`", where=path, hint=HINT)
    return info


def _find(path: Path) -> Path:
    for folder in (path, path / "student"):
        if (folder / "model.json").is_file():
            return folder
    what = "no such folder" if not path.exists() else "not a student folder: it has no model.json"
    raise UsageError(f"{what}: {path}", hint="name the `student` folder inside a finished run")


def _build(info: ModelInfo, tokenizer: Tokenizer, folder: Path) -> Student:
    """The student with its weights. Shapes are compared before memory is taken for what model.json asks for."""
    path = folder / "model.safetensors"
    try:
        with torch.device("meta"):
            wanted = build_student(info.student, tokenizer).state_dict()
        refuse_differences(wanted, _shapes(path), path)
        student = build_student(info.student, tokenizer)
    except ConfigError as problem:
        raise CheckpointError(problem.what, where=folder / "model.json", hint=HINT) from problem
    state = read_state(path)
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise CheckpointError(f"the weights hold NaN or infinity: {broken[0]}", where=path, hint=HINT)
    assign(student, state, path)
    return student.eval()


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a .safetensors file, from its header alone."""
    if not path.is_file():
        raise CheckpointError(f"missing file: {path.name}", where=path, hint=HINT)
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(f"not a weight file, or a damaged one: {problem}", where=path, hint=HINT) from problem
