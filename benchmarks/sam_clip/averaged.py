"""The plainest merge: the mean of both teachers' weights, where they have the same backbone. Each keeps its heads."""

from __future__ import annotations

import json
from pathlib import Path

from clip_edge.distill.models.checkpoint import LoadedStudent, load_student, save_student
from clip_edge.files import new_folder

NAMER, OUTLINER = "image.trunk.", "image.trunk.trunk."  # a mask head's neck holds the backbone


def average(namer: Path, outliner: Path, out: tuple[Path, Path]) -> None:
    """Write both teachers with the mean of their backbones, as student folders `out`."""
    names, outlines = load_student(namer), load_student(outliner)
    ours, theirs = names.student.state_dict(), outlines.student.state_dict()
    shared = [key for key in ours if key.startswith(NAMER) and key.replace(NAMER, OUTLINER, 1) in theirs]
    for key in shared:
        other = theirs[key.replace(NAMER, OUTLINER, 1)]
        mean = (ours[key].double() + other.double()).div(2).to(other.dtype)  # also the statistics of BatchNorm
        ours[key].copy_(mean)
        other.copy_(mean)
    for loaded, folder in zip((names, outlines), out, strict=True):
        _save(loaded, folder, {"averaged": len(shared), "of": [str(namer.name), str(outliner.name)]})


def _save(loaded: LoadedStudent, folder: Path, provenance: dict[str, object]) -> None:
    with new_folder(folder) as place:
        save_student(
            place,
            loaded.student,
            loaded.tokenizer,
            recipe_toml=f"# averaged: {json.dumps(provenance)}\n",
            metrics=None,
            provenance=provenance,
        )
