"""The folder of one training run: what it was started with, and whether another call may continue it.

RUN/recipe.toml is the resolved configuration, valid for --config; RUN/run.json names the recipe, the data and the
student. Loads no torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clip_edge import __version__
from clip_edge.config import read_toml, to_toml
from clip_edge.console import SILENT, Console
from clip_edge.distill.data.samples import DataSet
from clip_edge.distill.models.spec import StudentSpec
from clip_edge.errors import CheckpointError, ConfigError, UsageError
from clip_edge.files import (
    MAX_JSON_BYTES,
    disk_errors,
    read_bounded,
    read_json,
    refuse_existing,
    write_file,
    write_json,
)
from clip_edge.schema import as_dict, build

SCHEMA = 1
FREE = ("log.", "workers", "device", "knowledge")  # a resumed run may change these: they do not change the weights
LAYOUT = {  # what a run leaves behind, for --dry-run and the documentation
    "recipe.toml": "the resolved configuration, valid for --config",
    "run.json": "recipe, data and student that the run was started with",
    "metrics.jsonl": "one line per logged step",
    "tensorboard/": "the same figures for TensorBoard",
    "state/": "the last two checkpoints, for --resume",
    "cache/": "features of a frozen image trunk",
    "student/": "the trained student; appears at the end",
}


@dataclass(frozen=True)
class Identity:
    """What a run is about; a resumed run must be about the same."""

    recipe: str
    student: str  # SHA-256 of the specification
    data: str  # SHA-256 of the index
    name: str  # of the data set, for people
    samples: int
    knowledge: str = ""  # hash of what the teachers know; where it lies does not matter


@dataclass(frozen=True)
class _Started:
    """run.json."""

    schema: int
    created_by: str
    identity: Identity


def identify(recipe: str, spec: StudentSpec, dataset: DataSet, *, knowledge: str = "") -> Identity:
    """The identity of a run of `recipe` for the student `spec` on `dataset`, taught by `knowledge`.

    Of a tokenizer file its content counts, not its place.
    """
    described = as_dict(spec)
    if spec.tokenizer.file is not None:
        content = read_bounded(Path(spec.tokenizer.file), MAX_JSON_BYTES)
        described["tokenizer"]["file"] = hashlib.sha256(content).hexdigest()
    student = hashlib.sha256(repr(described).encode()).hexdigest()
    return Identity(recipe, student, data_hash(dataset), dataset.name, len(dataset), knowledge)


def data_hash(dataset: DataSet) -> str:
    """SHA-256 of the index: names of files and samples, offsets and lengths, captions of tables. Reads no picture.

    The folder may move: only the names of the files count.
    """
    digest = hashlib.sha256()
    for part in ([Path(file).name for file in dataset.files], dataset.keys, dataset.texts, dataset.labels):
        digest.update(repr(tuple(part)).encode())
    digest.update(dataset.index.tobytes())
    return digest.hexdigest()


def begin(run: Path, config: object, identity: Identity, *, resume: bool, console: Console = SILENT) -> None:
    """Make the run folder, or make sure that the one which is there may be continued.

    Raises:
        UsageError: the folder exists and is not to be resumed.
        ConfigError: it was started with other settings, data or student.
        CheckpointError: it is no run.
    """
    if resume and (run / "recipe.toml").is_file():
        _check_same(run, config, identity)
        return
    if resume:
        console.say(f"nothing to resume in {run}: starting from the beginning")
    _refuse_existing(run)
    with disk_errors(run):
        run.mkdir(parents=True, exist_ok=True)
    write_json(run / "run.json", asdict(_Started(SCHEMA, f"clip-edge {__version__}", identity)))
    write_file(run / "recipe.toml", to_toml(config).encode())  # last: it marks the folder as a run


def _refuse_existing(run: Path) -> None:
    try:
        refuse_existing(run)
    except UsageError as problem:
        if (run / "recipe.toml").is_file():
            raise UsageError(
                problem.what, hint="continue it with --resume, or name another folder with --out"
            ) from None
        raise


def _check_same(run: Path, config: object, identity: Identity) -> None:
    started = build(
        _Started, read_json(run / "run.json", error=CheckpointError), where=run / "run.json", error=CheckpointError
    )
    before, now = _flat(read_toml(run / "recipe.toml")), _flat(as_dict(config))
    differences = [
        f"`{key}`: the run has {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(FREE)
    ]
    was, is_ = started.identity, identity
    if was.recipe != is_.recipe:
        differences.append(f"`recipe`: the run has {was.recipe!r}, now {is_.recipe!r}")
    if was.student != is_.student:
        differences.append("`student`: the run was started with another one")
    if was.data != is_.data:
        differences.append(
            f"`data`: the run has {was.name!r} ({was.samples} samples), now {is_.name!r} ({is_.samples} samples); "
            "names or sizes of the files differ"
        )
    if was.knowledge != is_.knowledge:
        differences.append("`knowledge`: the run was started with that of other teachers, captions or augmentations")
    if differences:
        raise ConfigError(
            "cannot resume, the run was started otherwise:\n  " + "\n  ".join(differences),
            where=run,
            hint="repeat the command of the run, or start a new one with another --out",
        )


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; None is the same as absent, as in TOML."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[prefix + key] = value
    return flat
