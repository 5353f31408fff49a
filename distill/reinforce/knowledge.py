"""The work itself: pictures in, what the teachers and the captioner know about them out."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip_edge.distill.data.samples import DataSet, Sample
from clip_edge.distill.reinforce.augment import Params, draw, replay
from clip_edge.distill.reinforce.captioners import Captioner
from clip_edge.distill.reinforce.manifest import Job
from clip_edge.distill.reinforce.sidecar import Caption, Row, Skipped, Tensors, encode_rows, pack
from clip_edge.distill.teacher import Teacher
from clip_edge.errors import DataError
from clip_edge.images import open_image
from clip_edge.preprocess import Bytes


@dataclass(frozen=True)
class _Read:
    """A picture that was read, with its augmentations for every input that some teacher wants."""

    row: Row
    image: Image.Image | None  # kept for the captioner only
    crops: dict[tuple[int, str], Bytes]  # (size, interpolation) -> (A, S, S, 3)


def describe(
    dataset: DataSet,
    shard: str,
    first: int,
    numbers: Sequence[int],
    job: Job,
    teachers: Sequence[Teacher],
    captioner: Captioner | None,
    pool: Executor,
) -> tuple[Tensors, tuple[Skipped, ...]]:
    """The tensors of a sidecar for the samples `numbers`, whose shard begins at sample `first`.

    Pictures that cannot be read have no row and are named in the second result.
    """
    inputs = sorted({_input(teacher) for teacher in teachers})
    at_once = max(1, job.batch_size // job.augmentations)
    groups = [numbers[start : start + at_once] for start in range(0, len(numbers), at_once)]
    rows: list[Row] = []
    skipped: list[Skipped] = []
    embeds: list[list[Tensor]] = [[torch.empty(0, teacher.info.dim)] for teacher in teachers]

    def submit(group: Sequence[int]) -> list[Future[_Read | Skipped]]:
        return [pool.submit(_read, dataset, shard, i, i - first, job, inputs) for i in group]

    waiting = submit(groups[0]) if groups else []
    for following in [*groups[1:], ()]:
        found, waiting = [future.result() for future in waiting], submit(following)  # decode ahead of the teachers
        skipped += [one for one in found if isinstance(one, Skipped)]
        whole = [one for one in found if isinstance(one, _Read)]
        for k, teacher in enumerate(teachers):
            if whole:
                pixels = np.concatenate([one.crops[_input(teacher)] for one in whole])  # (B * A, S, S, 3)
                embeds[k].append(teacher.encode_images(pixels).cpu())
        rows += [_with_synthetic(one, first, job, captioner) for one in whole]
    tensors = pack(rows, job.shape)
    texts = [caption.text for row in rows for caption in row.captions]
    for k, teacher in enumerate(teachers):
        images = torch.cat(embeds[k]).view(len(rows), job.augmentations, teacher.info.dim)  # (N * A, D) -> (N, A, D)
        tensors |= encode_rows(f"image.{k}", images, job.dtype)
        tensors |= encode_rows(f"text.{k}", embed_texts(teacher, texts, job.batch_size), job.dtype)
    return tensors, tuple(skipped)


def embed_texts(teacher: Teacher, texts: Sequence[str], batch_size: int) -> Tensor:
    """N sentences -> (N, D); a sentence that occurs twice is computed once."""
    distinct = list(dict.fromkeys(texts))
    place = {text: i for i, text in enumerate(distinct)}
    parts = [torch.empty(0, teacher.info.dim)]
    for start in range(0, len(distinct), batch_size):
        parts.append(teacher.encode_texts(distinct[start : start + batch_size]).cpu())
    return torch.cat(parts)[[place[text] for text in texts]]


def draw_all(job: Job, key: str, width: int, height: int) -> tuple[Params, ...]:
    """The augmentations of a picture: a function of seed, key and number, so that order and restarts do not matter."""
    return tuple(
        draw(random.Random(f"{job.seed}/{key}/{a}"), width, height, job.replay) for a in range(job.augmentations)
    )


def true_captions(sample: Sample, languages: Sequence[str]) -> tuple[Caption, ...]:
    """The captions that the data set gives, in the order of the languages."""
    return tuple(Caption(text, lang, False, -1) for lang in languages for text in sample.captions.get(lang, ()))


def _input(teacher: Teacher) -> tuple[int, str]:
    return teacher.info.preprocess.size, teacher.info.preprocess.interpolation


def _read(
    dataset: DataSet, shard: str, i: int, position: int, job: Job, inputs: Sequence[tuple[int, str]]
) -> _Read | Skipped:
    key = dataset.keys[i]
    try:
        sample = dataset.sample(i)
        image = open_image(sample.image)
    except DataError as problem:
        return Skipped(key, shard, problem.what)
    captions = true_captions(sample, job.languages)
    params = draw_all(job, key, *image.size)
    row = Row(key, position, hashlib.sha256(sample.image).digest(), image.size, params, captions)
    crops = {
        (size, filter_): np.stack([np.asarray(replay(image, one, size, filter_)) for one in params])
        for size, filter_ in inputs
    }
    return _Read(row, image if job.captions else None, crops)


def _with_synthetic(read: _Read, first: int, job: Job, captioner: Captioner | None) -> Row:
    row = read.row
    if captioner is None or read.image is None:
        return row
    made = captioner.describe(first + row.position, read.image, job.captions, f"{job.seed}/{row.key}/captions")
    return Row(row.key, row.position, row.image_sha256, row.size, row.params, (*row.captions, *made))
