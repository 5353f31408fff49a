"""What recipes do before and after their loop: check the data, build the student, save it."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clip_edge import __version__
from clip_edge.config import to_toml
from clip_edge.console import Console
from clip_edge.distill import distributed
from clip_edge.distill.data.loader import check_langs, steps_per_epoch
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.samples import DataSet
from clip_edge.distill.distributed import Processes
from clip_edge.distill.loop import Evaluation
from clip_edge.distill.models.checkpoint import LoadedStudent, save_student
from clip_edge.distill.models.foreign_tokenizers import read_tokenizer
from clip_edge.distill.models.image import memory_format
from clip_edge.distill.models.spec import StudentSpec
from clip_edge.distill.models.student import Student, build_student
from clip_edge.distill.models.tokenizers import clip_tokenizer, train_tokenizer
from clip_edge.distill.models.weights import load_initial
from clip_edge.distill.run_folder import data_hash
from clip_edge.distill.settings import KeepSettings
from clip_edge.distill.state import TrainingState
from clip_edge.distill.validation import Check
from clip_edge.errors import ConfigError, DataError
from clip_edge.files import new_folder
from clip_edge.images import open_image
from clip_edge.schema import as_dict
from clip_edge.tokenizer import Tokenizer

TOKENIZER_SAMPLES = 200_000  # captions of so many samples, evenly spread, are plenty to learn a vocabulary from
EXAMPLES = 16
PACKAGES = ("torch", "timm", "open-clip-torch", "tokenizers", "numpy", "pillow")


def check_data(dataset: DataSet, batch_size: int, langs: Sequence[str]) -> None:
    """Raise UsageError when the data set is smaller than a batch, or lacks a language."""
    steps_per_epoch(dataset, batch_size)
    check_langs(dataset, langs)


def open_validation(data: Path, split: str) -> DataSet | None:
    """The split that is measured while training; None for the split ""."""
    if not split:
        return None
    try:
        return open_dataset(data, split)
    except DataError as problem:
        without = 'to train without evaluation: --set evaluation.split=""'
        hint = without if problem.hint is None else f"{problem.hint}; {without}"
        raise DataError(problem.what, where=problem.where, hint=hint) from problem


def build(spec: StudentSpec, tokenizer: Tokenizer, *, seed: int, here: Processes, folder: Path) -> LoadedStudent:
    """The student at its beginning: random weights of `seed`, then those that its specification names."""
    torch.manual_seed(seed)
    student = build_student(spec, tokenizer)
    load_initial(student)
    layout = memory_format(student.image.trunk, here.device)
    student.to(here.device).image.to(memory_format=layout)  # 10 to 20 % faster convolutions
    distributed.same_start(student)
    distributed.synchronise_batchnorm(student, here)
    return LoadedStudent(student, spec, tokenizer, spec.image.preprocess(), folder, {})


def make_tokenizer(spec: StudentSpec, dataset: DataSet, langs: Sequence[str], console: Console) -> Tokenizer:
    """CLIP's own, or one that is learnt from the captions, as the specification says."""
    if spec.tokenizer.kind == "clip":
        return clip_tokenizer(spec.text.context_length)
    if spec.tokenizer.kind == "trimmed":
        raise ConfigError(
            "a trimmed vocabulary belongs to the student that it was made from",
            where=f"student {spec.name}",
            hint='train with `"kind": "clip"` or "trained" and trim the result',
        )
    if spec.tokenizer.file is not None:
        return read_tokenizer(spec.tokenizer, spec.text.context_length)
    captions = _captions(dataset, langs, console)
    return train_tokenizer(captions, spec.tokenizer.vocab_size, spec.text.context_length)


def set_trained(student: Student, *, freeze_image: bool) -> None:
    """Training mode for what is trained; a frozen trunk computes as it will after training."""
    student.train()
    if freeze_image:
        student.image.trunk.eval().requires_grad_(False)


def validate(
    built: LoadedStudent, dataset: DataSet | None, langs: Sequence[str], limit: int, check: Check
) -> Callable[[nn.Module], Evaluation] | None:
    """What the loop calls to measure weights; None when there is nothing to measure on."""
    if dataset is None:
        return None
    both = tuple(lang for lang in langs if lang in dataset.langs)
    return check(built, dataset, langs=both, limit=limit)


def save(
    training: TrainingState,
    built: LoadedStudent,
    keep: KeepSettings,
    run: Path,
    *,
    recipe: str,
    config: object,
    data: DataSet,
    examples: DataSet | None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write RUN/student with the weights that `keep` chooses; returns the folder. `provenance` adds to model.json."""
    chosen = training.ema.state_dict() if training.ema is not None else training.model.state_dict()
    step = training.step
    if keep.choose == "best" and training.best is not None:
        chosen, step = training.best.weights, training.best.step
    training.model.load_state_dict(chosen)  # the student, or what holds it
    with new_folder(run / "student") as folder:
        save_student(
            folder,
            built.student,
            built.tokenizer,
            recipe_toml=to_toml(config),
            metrics=run / "metrics.jsonl",
            provenance=_provenance(recipe, config, data, step, keep) | dict(provenance or {}),
            examples=None if examples is None else _examples(examples),
        )
    return run / "student"


def _captions(dataset: DataSet, langs: Sequence[str], console: Console) -> Iterator[str]:
    """The captions of `langs` (all when empty); samples that cannot be read are passed over here and told later."""
    count = min(len(dataset), TOKENIZER_SAMPLES)
    with console.progress("learn the tokenizer", count, "samples") as meter:
        for i in range(count):
            meter.advance()
            try:
                captions = dataset.sample(i * len(dataset) // count).captions
            except DataError:
                continue
            for lang in [lang for lang in langs if lang in captions] or captions:
                yield from captions[lang]


def _provenance(recipe: str, config: Any, data: DataSet, step: int, keep: KeepSettings) -> dict[str, Any]:
    return {
        "recipe": recipe,
        "data": {
            "name": data.name,
            "split": data.split,
            "samples": len(data),
            "langs": list(data.langs),
            "index_sha256": data_hash(data),
            "licence": None if data.info is None else as_dict(data.info.licence),
        },
        "seed": config.seed,
        "steps": step,
        "batch_size": config.batch_size,
        "weights": keep.weights,
        "versions": {"clip-edge": __version__, "python": platform.python_version()} | _versions(PACKAGES),
    }


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _examples(dataset: DataSet) -> dict[str, np.ndarray[Any, Any]]:
    """Up to 16 readable pictures of `dataset` with a caption each, in all its languages: real data for self-tests.

    `image.000` (H, W, 3) uint8 and so on; `texts` and `labels` are JSON lists as UTF-8 bytes, one entry per picture.
    """
    images: list[np.ndarray[Any, Any]] = []
    texts, labels = [], []
    for place in np.random.default_rng(0).permutation(len(dataset)).tolist():
        if len(images) == EXAMPLES:
            break
        try:
            sample = dataset.sample(place)
            picture = open_image(sample.image)
        except DataError:
            continue
        captions = list(sample.captions.values())
        texts.append(captions[len(images) % len(captions)][0])
        labels.append(sample.label)
        images.append(np.asarray(picture, dtype=np.uint8))
    found = {f"image.{i:03d}": image for i, image in enumerate(images)}
    for name, values in (("texts", texts), ("labels", labels)):
        found[name] = np.frombuffer(json.dumps(values, ensure_ascii=False).encode(), dtype=np.uint8)
    return found
