"""A student folder of ours as an `Exportable`."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch

from clip_edge.bundle import ImageInput, Licence, TextInput
from clip_edge.distill.models.checkpoint import LoadedStudent, load_student
from clip_edge.distill.models.spec import load_spec
from clip_edge.distill.models.student import build_student
from clip_edge.distill.models.tokenizers import MIN_TRAINED_VOCAB, clip_tokenizer, train_tokenizer
from clip_edge.errors import UsageError
from clip_edge.export.parts import can_be_cut
from clip_edge.export.sources import Exportable
from clip_edge.export.towers import ImageTower, TextTower
from clip_edge.golden import read_examples
from clip_edge.schema import as_dict
from clip_edge.tokenizer import Tokenizer

EXAMPLES = "examples.safetensors"
BUILT_IN = "student:"


def load(source: str) -> Exportable:
    """The student in the folder `source`, or in the run folder `source`; or `student:NAME:random`, a built-in one.

    Raises:
        UsageError, CheckpointError: as `load_student`; ConfigError: no built-in student of that name.
    """
    loaded = _untrained(source) if source.startswith(BUILT_IN) else load_student(Path(source))
    student, spec = loaded.student, loaded.spec
    images, texts = read_examples(loaded.folder / EXAMPLES)
    image: dict[str, object] = {
        "tower": spec.image.tower,
        "args": spec.image.args,
        "projection": spec.image.projection,
    }
    if spec.image.head is not None:
        image["head"] = as_dict(spec.image.head)
    text_input = TextInput(
        loaded.tokenizer.spec, spec.text.causal, spec.text.pad_mask, spec.text.pool, activation="gelu"
    )
    return Exportable(
        name=spec.name,
        where=str(loaded.folder),
        image=ImageTower(student.image.trunk, student.image.projection).eval(),
        text=TextTower(student.text).eval(),
        tokenizer=loaded.tokenizer,
        image_input=ImageInput(loaded.preprocess, crop="none" if loaded.preprocess.resize == "squash" else "center"),
        text_input=text_input,
        dim=spec.embed_dim,
        logit_scale=math.exp(student.logit_scale.item()),
        logit_bias=None if student.logit_bias is None else student.logit_bias.item(),
        architecture={"image": image, "text": as_dict(spec.text)},
        licences=tuple(Licence(**licence) for licence in loaded.info["licences"]),
        research_only=loaded.info["research_only"],
        provenance=loaded.info["provenance"],
        example_images=images,
        example_texts=texts,
        student=student if can_be_cut(student) else None,
    )


def _untrained(source: str) -> LoadedStudent:
    """A built-in student with random weights, to measure speed and size before anything is trained."""
    name, _, weights = source.removeprefix(BUILT_IN).partition(":")
    if weights != "random":
        raise UsageError(
            f"`{source}` names no weights",
            hint=f"write {BUILT_IN}{name}:random, or name the folder of a trained student",
        )
    spec = load_spec(name)
    length = spec.text.context_length
    if spec.tokenizer.kind == "clip":
        tokenizer = clip_tokenizer(length)
    else:
        letters = train_tokenizer(["a photo of a cat"], MIN_TRAINED_VOCAB, length)
        text = dataclasses.replace(letters.spec, vocab_size=spec.tokenizer.vocab_size)
        tokenizer = Tokenizer(letters.json_bytes, text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = build_student(spec, tokenizer).eval()
    info = {"licences": [], "research_only": False, "provenance": {"source": source, "weights": "random"}}
    return LoadedStudent(student, spec, tokenizer, spec.image.preprocess(), Path(source), info)
