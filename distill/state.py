"""Everything that changes while training, saved so that a killed run continues as if nothing had happened.

RUN/state/step-00000123/ holds model.safetensors, optimizer.safetensors, ema.safetensors, best.safetensors (the last
two where they are in use) and state.json with the SHA-256 of each. A folder appears whole; the last two are kept.
The order of the samples and all random numbers are functions of (seed, step), so the step is their whole state.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clip_edge.console import SILENT, Console
from clip_edge.errors import CheckpointError
from clip_edge.files import new_folder, read_json, sha256_file, write_json
from clip_edge.schema import build

SCHEMA = 1
KEPT = 2
Weights = dict[str, Tensor]


@dataclass
class Best:
    """The weights of the best evaluation so far."""

    score: float
    step: int
    weights: Weights


@dataclass
class TrainingState:
    """What a checkpoint holds. `step` counts the optimiser steps that are done."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: nn.Module | None = None
    best: Best | None = None
    step: int = 0
    at_chance: int = 0  # evaluations in a row without a sign of learning


@dataclass(frozen=True)
class _Saved:
    """state.json."""

    schema: int
    step: int
    at_chance: int
    scaler: dict[str, Any]
    best_score: float | None
    best_step: int | None
    sha256: dict[str, str] = field(default_factory=dict)


def save_state(state: TrainingState, run: Path) -> Path:
    """Write `state` below `run` and forget all but the newest two; returns the folder."""
    folder = run / "state" / f"step-{state.step:08d}"
    if folder.exists():
        return folder  # the same step is the same state
    with new_folder(folder) as partial:
        for name, tensors in _tensors(state).items():
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, partial / name)
        saved = _Saved(
            schema=SCHEMA,
            step=state.step,
            at_chance=state.at_chance,
            scaler=state.scaler.state_dict(),
            best_score=state.best.score if state.best else None,
            best_step=state.best.step if state.best else None,
            sha256={file.name: sha256_file(file) for file in sorted(partial.iterdir())},
        )
        write_json(partial / "state.json", dataclasses.asdict(saved))
        _to_disk(partial)
    unfinished = (run / "state").glob(".step-*.partial-*")  # of a process that was killed while it wrote
    for old in [*saved_states(run)[:-KEPT], *unfinished]:
        shutil.rmtree(old)
    return folder


def saved_states(run: Path) -> list[Path]:
    """The state folders below `run`, oldest first."""
    return sorted((run / "state").glob("step-[0-9]*"))


def restore_newest(state: TrainingState, run: Path, *, console: Console = SILENT) -> bool:
    """Fill `state` from the newest whole checkpoint below `run`; False when there is none.

    A damaged checkpoint is named, and the one before it is taken.

    Raises:
        CheckpointError: every checkpoint is damaged, or belongs to another model.
    """
    problem: CheckpointError | None = None
    for folder in reversed(saved_states(run)):
        try:
            _restore(state, folder)
        except CheckpointError as found:
            problem = problem or found
            console.warn(f"checkpoint {folder.name} is left out: {found.what}")
        else:
            return True
    if problem is not None:
        raise CheckpointError(
            "no checkpoint of this run can be read", where=run / "state", hint="start again with another --out"
        ) from problem
    return False


def _restore(state: TrainingState, folder: Path) -> None:
    raw = read_json(folder / "state.json", error=CheckpointError)
    saved = build(_Saved, raw, where=folder / "state.json", error=CheckpointError)
    if saved.schema != SCHEMA:
        raise CheckpointError(f"schema {saved.schema}; this version reads {SCHEMA}", where=folder)
    found = {name: _read(folder, name, digest) for name, digest in saved.sha256.items()}
    wanted = {"model.safetensors": state.model.state_dict()}
    if state.ema is not None:
        wanted["ema.safetensors"] = state.ema.state_dict()
    for name, tensors in wanted.items():
        _same_shapes(tensors, found.get(name, {}), folder / name)
    best = None
    if saved.best_score is not None and saved.best_step is not None:
        best = Best(saved.best_score, saved.best_step, found.get("best.safetensors", {}))
        _same_shapes(wanted["model.safetensors"], best.weights, folder / "best.safetensors")
    _restore_optimizer(state, found.get("optimizer.safetensors", {}), folder / "optimizer.safetensors")
    for name, tensors in wanted.items():
        for key, value in found[name].items():
            tensors[key].copy_(value)
    if saved.scaler:
        state.scaler.load_state_dict(saved.scaler)
    state.step, state.at_chance, state.best = saved.step, saved.at_chance, best


def _tensors(state: TrainingState) -> dict[str, Weights]:
    """File name -> tensors."""
    files: dict[str, Weights] = {"model.safetensors": state.model.state_dict()}
    files["optimizer.safetensors"] = {
        f"{key}/{name}": value
        for name, parameter in state.model.named_parameters()
        for key, value in state.optimizer.state.get(parameter, {}).items()
    }
    if state.ema is not None:
        files["ema.safetensors"] = state.ema.state_dict()
    if state.best is not None:
        files["best.safetensors"] = state.best.weights
    return files


def _restore_optimizer(state: TrainingState, found: Weights, where: Path) -> None:
    parameters = {name: p for name, p in state.model.named_parameters() if p.requires_grad}
    filled: dict[Tensor, dict[str, Tensor]] = {parameter: {} for parameter in parameters.values()}
    for path, value in found.items():
        key, _, name = path.partition("/")
        if name not in parameters or value.shape not in (parameters[name].shape, torch.Size([])):
            raise CheckpointError(f"`{path}` belongs to another model", where=where)
        like = parameters[name].detach()
        # Each moment has the memory layout of its parameter: sums over it must run in the same order as before.
        place = torch.empty_like(like) if value.shape == like.shape else torch.empty((), device=like.device)
        filled[parameters[name]][key] = place.copy_(value)
    state.optimizer.state.update(filled)


def _read(folder: Path, name: str, digest: str) -> Weights:
    path = folder / name
    if Path(name).name != name or not path.is_file():
        raise CheckpointError(f"missing file: {name}", where=folder)
    if sha256_file(path) != digest:
        raise CheckpointError(f"{name} is damaged: its SHA-256 is not the recorded one", where=folder)
    try:
        return load_file(path)
    except SafetensorError as problem:
        raise CheckpointError(f"{name} is no safetensors file: {problem}", where=folder) from problem


def _same_shapes(wanted: dict[str, Any], found: Weights, where: Path) -> None:
    for key in sorted(wanted.keys() | found.keys()):
        if key not in wanted or key not in found or wanted[key].shape != found[key].shape:
            raise CheckpointError(f"`{key}` belongs to another model", where=where)


def _to_disk(folder: Path) -> None:
    """Ask the system to write the files out: a power cut after the rename must not leave empty ones."""
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
