"""A student folder of ours as an `Exportable`."""

from __future__ import annotations

import math
from pathlib import Path

from clip_edge.bundle import ImageInput, Licence, TextInput
from clip_edge.distill.models.checkpoint import load_student
from clip_edge.export.sources import Exportable
from clip_edge.export.towers import ImageTower, TextTower
from clip_edge.golden import read_examples
from clip_edge.schema import as_dict

EXAMPLES = "examples.safetensors"


def load(source: str) -> Exportable:
    """The student in the folder `source`, or in the run folder `source`.

    Raises:
        UsageError, CheckpointError: as `load_student`.
    """
    loaded = load_student(Path(source))
    student, spec = loaded.student, loaded.spec
    images, texts = read_examples(loaded.folder / EXAMPLES)
    image = {"tower": spec.image.tower, "args": spec.image.args, "projection": spec.image.projection}
    text_input = TextInput(
        loaded.tokenizer.spec, spec.text.causal, spec.text.pad_mask, spec.text.pool, activation="gelu"
    )
    return Exportable(
        name=spec.name,
        where=str(loaded.folder),
        image=ImageTower(student.image.trunk, student.image.projection).eval(),
        text=TextTower(student.text).eval(),
        tokenizer=loaded.tokenizer,
        image_input=ImageInput(loaded.preprocess, crop="center" if loaded.preprocess.resize == "shortest" else "none"),
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
    )
