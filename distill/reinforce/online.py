"""Teachers that are asked while training, instead of before: fresh augmentations and captions at every step, for
several times the cost. Same interface as stored knowledge (`batches.Stored`)."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from clip_edge.distill.data.augment import Augment, AugmentSpec
from clip_edge.distill.data.samples import DataSet
from clip_edge.distill.reinforce.batches import Item, Kind, RawBatch, ReinforcedBatch, draw_captions
from clip_edge.distill.reinforce.captioners import Captioner, load_captioner
from clip_edge.distill.reinforce.knowledge import embed_texts, true_captions
from clip_edge.distill.teacher import Teacher, TeacherInfo
from clip_edge.errors import ConfigError
from clip_edge.images import open_image
from clip_edge.preprocess import PreprocessSpec

QUICK_CAPTIONERS = ("rewrite", "file")  # the reading processes can afford these
CHOICE = 5  # synthetic captions per language, of which one is drawn


class Online:
    """Frozen teachers, asked at every step without gradient.

    Every teacher sees the student's augmentation at its own size: crops and operations are drawn from the same seed.

    Args:
        augment: what happens to the pictures.
        captioner: where synthetic captions come from, as in `captioners.load_captioner`.
        at_once: pictures or captions per forward of a teacher.
    """

    def __init__(self, teachers: Sequence[Teacher], *, augment: AugmentSpec, captioner: str, at_once: int) -> None:
        self._teachers = tuple(teachers)
        self._augment, self._captioner, self._at_once = augment, captioner, at_once

    @property
    def teachers(self) -> tuple[TeacherInfo, ...]:
        return tuple(teacher.info for teacher in self._teachers)

    @property
    def id(self) -> str:
        words = [f"{info.weights_sha256} {info.architecture_sha256} {info.preprocess}" for info in self.teachers]
        return hashlib.sha256("\n".join(words).encode()).hexdigest()

    def reader(
        self, dataset: DataSet, spec: PreprocessSpec, kinds: Sequence[Kind], langs: Sequence[str], seed: int
    ) -> Callable[[int, int], Item]:
        """Raises UsageError for a captioner that does not fit the data, or runs a model."""
        source = self._captioner if "synthetic" in kinds else ""
        if source and source.partition(":")[0] not in QUICK_CAPTIONERS:
            raise ConfigError(
                f"the captioner `{source}` is too slow to be asked at every step",
                hint="store its captions once with `clip-edge reinforce`, or use rewrite or file:F.jsonl",
            )
        student, views = Augment(self._augment, spec), tuple(Augment(self._augment, one) for one in self._inputs())
        reader = _OnlineReader(dataset, student, views, tuple(kinds), tuple(langs), seed, source)
        if source:
            _ = reader.captioner  # a wrong one is refused now, not in the first step
        return reader

    def complete(self, batch: RawBatch) -> ReinforcedBatch:
        views = dict(zip(self._inputs(), batch.extra, strict=True))
        texts = [text for several in batch.texts for text in several]
        images, sentences = [], []
        for teacher in self._teachers:
            pieces = torch.split(views[teacher.info.preprocess], self._at_once)
            images.append(torch.cat([teacher.encode_images(piece.numpy()) for piece in pieces]))
            sentences.append(embed_texts(teacher, texts, self._at_once))
        teacher_texts = torch.cat(sentences, dim=-1)  # (B T, E)
        return ReinforcedBatch(
            images=batch.images,
            tokens=batch.tokens,
            teacher_image=torch.cat(images, dim=-1),
            teacher_texts=teacher_texts.view(len(batch.texts), -1, teacher_texts.shape[-1]),
            indices=batch.indices,
        )

    def _inputs(self) -> tuple[PreprocessSpec, ...]:
        """What the teachers want to see, each once."""
        return tuple(dict.fromkeys(info.preprocess for info in self.teachers))


@dataclass(frozen=True)
class _OnlineReader:
    dataset: DataSet
    student: Augment
    views: tuple[Augment, ...]
    kinds: tuple[Kind, ...]
    langs: tuple[str, ...]
    seed: int
    source: str  # of synthetic captions; "" for none

    def __call__(self, epoch: int, index: int) -> Item:
        sample = self.dataset.sample(index)
        image = open_image(sample.image)
        words = f"{self.seed}/{epoch}/{index}/reinforced"
        captions = true_captions(sample, self.dataset.langs)
        if self.source:
            captions += self.captioner.describe(index, image, CHOICE, words)
        drawn = draw_captions(captions, self.kinds, self.langs, random.Random(words))
        seed = (self.seed, epoch, index)
        seen = tuple(torch.from_numpy(view(image, seed)) for view in self.views)
        return Item(self.student(image, seed), tuple(one.text for one in drawn), seen, index)

    @functools.cached_property
    def captioner(self) -> Captioner:
        languages = [lang for lang in self.langs if lang in self.dataset.langs] or self.dataset.langs
        return load_captioner(self.source, self.dataset, languages, torch.device("cpu"))

    def __getstate__(self) -> dict[str, object]:  # captioners are functions: every reading process loads its own
        return {name: value for name, value in self.__dict__.items() if name != "captioner"}
