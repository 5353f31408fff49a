"""Does a folder of stored knowledge still say what its teachers say? A random sample is embedded again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from clip_edge.console import SILENT, Console
from clip_edge.distill.data.samples import DataSet
from clip_edge.distill.reinforce.augment import replay
from clip_edge.distill.reinforce.manifest import NAME, OTHER_JOB
from clip_edge.distill.reinforce.reader import Reinforced, open_reinforced
from clip_edge.distill.reinforce.sidecar import Caption, Dtype
from clip_edge.distill.teacher import Teacher, load_teacher
from clip_edge.errors import ArtifactError
from clip_edge.images import open_image

TOLERANCE: dict[Dtype, float] = {
    "bf16": 0.999,  # 8 bits of precision give 0.99999; the rest is for other devices and batch sizes
    "int8": 0.997,  # ordinary rows give 0.9999; a row with one dominant value keeps few steps for the others
}
SAMPLES = 32


@dataclass(frozen=True)
class Verified:
    """The least cosine between stored and fresh embeddings of one teacher."""

    teacher: str
    images: int
    texts: int
    min_image_cosine: float
    min_text_cosine: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether both cosines reach the tolerance."""
        return min(self.min_image_cosine, self.min_text_cosine) >= self.tolerance


def verify(
    dataset: DataSet,
    folder: Path,
    *,
    teachers: Sequence[str] = (),
    samples: int = SAMPLES,
    seed: int = 0,
    device: str | None = None,
    console: Console = SILENT,
) -> tuple[Verified, ...]:
    """Embed `samples` random pictures and their captions again; `teachers` default to where they were loaded from.

    Raises:
        ArtifactError: the folder is damaged, of other pictures, or `teachers` are other ones.
    """
    stored = open_reinforced(dataset, folder)
    rng = random.Random(seed)
    usable = stored.usable.tolist()
    chosen = [(i, rng.randrange(stored.augmentations)) for i in rng.sample(usable, min(samples, len(usable)))]
    sources = list(teachers) or [info.source for info in stored.teachers]
    if len(sources) != len(stored.teachers):
        raise ArtifactError(
            f"this folder was made with {len(stored.teachers)} teachers; {len(sources)} are given",
            where=stored.folder / NAME,
            hint="name them in the same order, or leave --teacher away",
        )
    results = []
    with console.progress("verify", len(sources), "teachers") as meter:
        for k, source in enumerate(sources):
            teacher = load_teacher(source, device=device)
            _refuse_other_teacher(stored, k, teacher)
            results.append(_compare(dataset, stored, k, teacher, chosen))
            meter.advance()
    return tuple(results)


def _refuse_other_teacher(stored: Reinforced, k: int, teacher: Teacher) -> None:
    info = stored.teachers[k]
    if not info.weights_sha256 and info.dim == teacher.info.dim:
        return  # imported: nobody knows the weights, so the cosines alone decide
    if not info.same_numbers(teacher.info):
        raise ArtifactError(
            f"`{teacher.info.source}` is another version of the teacher {info.name}: expected weights "
            f"{info.weights_sha256[:16]}..., found {teacher.info.weights_sha256[:16]}...",
            where=stored.folder / NAME,
            hint=f"give the teacher that this was made with; or {OTHER_JOB}",
        )


def _compare(
    dataset: DataSet, stored: Reinforced, k: int, teacher: Teacher, chosen: Sequence[tuple[int, int]]
) -> Verified:
    spec = teacher.info.preprocess
    crops, images, texts, sentences = [], [], [], []
    for i, a in chosen:
        sample = dataset.sample(i)
        stored.check(i, sample.image)
        crops.append(np.asarray(replay(open_image(sample.image), stored.params(i, a), spec.size, spec.interpolation)))
        images.append(stored.image_embeds(i, a)[k])
        captions: tuple[Caption, ...] = stored.captions(i, sample)
        texts += [stored.text_embeds(i, caption)[k] for caption in captions]
        sentences += [caption.text for caption in captions]
    fresh_images = teacher.encode_images(np.stack(crops)).cpu()
    fresh_texts = teacher.encode_texts(sentences).cpu()
    cosine = torch.nn.functional.cosine_similarity
    return Verified(
        teacher=teacher.info.name,
        images=len(images),
        texts=len(texts),
        min_image_cosine=float(cosine(torch.stack(images), fresh_images).min()),
        min_text_cosine=float(cosine(torch.stack(texts), fresh_texts).min()),
        tolerance=TOLERANCE[stored.manifest.job.dtype],
    )
