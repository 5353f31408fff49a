"""How good a student is: zero-shot classification and retrieval on pictures it was not trained on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
import torch

from clip_edge.console import SILENT, Console
from clip_edge.distill.templates import templates_for
from clip_edge.errors import DataError, unknown_name
from clip_edge.images import open_image
from clip_edge.numerics import Floats, Ints, clustered, ranks, unit_rows, wilson
from clip_edge.preprocess import Bytes, PreprocessSpec, normalize, to_pixels

if TYPE_CHECKING:
    from clip_edge.distill.data.samples import ClassInfo, DataSet, Sample
    from clip_edge.tokenizer import Tokenizer

T = TypeVar("T")
Task = Literal["retrieve", "classify"]
TASKS: tuple[Task, ...] = ("retrieve", "classify")
KS = (1, 5, 10)  # recall at k, as the retrieval papers report it
BATCH_SIZE = 64
UNDETERMINED = "und"  # BCP 47's tag, for captions whose language the data does not say


class Measurable(Protocol):
    """What is measured: a loaded student, or the same three things of any other model."""

    @property
    def student(self) -> Any: ...  # a module with `encode_image` and `encode_text`
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def preprocess(self) -> PreprocessSpec: ...


def load_model(source: str) -> Measurable:
    """The model that MODEL names: a student folder, the run that holds one, or `open_clip:…` and `hf:…`.

    Raises:
        UsageError, CheckpointError, UnavailableError: as `load_student` and `load_pretrained`.
    """
    from clip_edge.distill.models.checkpoint import load_student
    from clip_edge.distill.models.pretrained import is_pretrained, load_pretrained

    return load_pretrained(source) if is_pretrained(source) else load_student(Path(source))


@dataclass(frozen=True)
class Embedded:
    """The pictures of a split as vectors, with what the data says about each; broken pictures are in `skipped`."""

    images: Floats  # (N, D), rows of length one
    captions: tuple[dict[str, tuple[str, ...]], ...]  # N times: language -> captions
    labels: tuple[str | None, ...]  # N times: the class id of a picture that shows exactly one
    skipped: tuple[dict[str, str], ...]


def evaluate(
    loaded: Measurable,
    dataset: DataSet,
    *,
    task: Task = "retrieve",
    langs: Sequence[str] = (),
    limit: int | None = None,
    batch_size: int = BATCH_SIZE,
    templates: Sequence[str] = (),
    console: Console = SILENT,
) -> dict[str, Any]:
    """Measure `loaded` on `dataset` in each language, and the mean of the languages.

    Args:
        langs: the languages to measure; none means all that the data has captions in.
        limit: measure at most so many pictures, spread evenly over the split.
        templates: sentences with `{}` for the class name, instead of those of each language.

    Returns:
        {task, data, split, images, skipped, languages: {lang: figures}, mean: {figure: share}}; shares lie in 0..1.

    Raises:
        DataError: no readable picture; a language or classes that the data does not have.
    """
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    if task == "classify" and not dataset.classes:
        raise DataError(
            f"no classes in {dataset.name}, and classification needs them",
            hint="measure retrieval with --task retrieve, or give a folder of classes",
        )
    wanted = _languages(dataset, task, langs)
    embedded = embed_dataset(loaded, dataset, limit=limit, batch_size=batch_size, console=console)
    figures: dict[str, dict[str, Any]] = {}
    for lang in wanted:
        if task == "retrieve":
            figures[lang or UNDETERMINED] = _retrieve(loaded, embedded, lang, batch_size)
        else:
            chosen = tuple(templates) or templates_for(lang)
            figures[lang or UNDETERMINED] = _classify(loaded, embedded, dataset.classes, lang, chosen, batch_size)
    return {
        "task": task,
        "data": dataset.name,
        "split": dataset.split,
        "images": len(embedded.images),
        "skipped": list(embedded.skipped),
        "languages": figures,
        "mean": _mean(list(figures.values())),
    }


def retrieval(
    image_embeds: Floats, text_embeds: Floats, text_to_image: Ints, texts: Sequence[str] | None = None
) -> dict[str, Any]:
    """Recall at 1, 5 and 10 in both directions, each with its 95 % interval.

    Image to text is right when any caption of the picture is among the first k; text to image asks with every
    caption. Ties count as wrong (`numerics.ranks`). Where `texts` are given, a caption that several pictures share
    is one answer, right for each of them: no model could tell its copies apart.

    Args:
        image_embeds: (N, D). text_embeds: (M, D). text_to_image: (M,) the picture that each caption describes.
        texts: the M captions themselves.
    """
    if len(text_embeds) == 0:
        raise DataError("no captions to search with")
    first, sentence = _distinct(texts, len(text_embeds))
    pairs = np.unique(np.stack((text_to_image, sentence), axis=1), axis=0)  # (P, 2): picture, sentence
    asked, image_ranks = ranks(image_embeds, text_embeds[first], pairs)
    _, sentence_ranks = ranks(text_embeds[first], image_embeds, pairs[:, ::-1])
    text_ranks = sentence_ranks[sentence]  # every caption asks, (M,)
    return {
        "images": len(image_embeds),
        "captions": len(text_embeds),
        "text_to_image": _recalls(text_ranks, text_to_image, len(image_embeds)),
        "image_to_text": _recalls(image_ranks, asked, len(first)),
    }


def classification(
    image_embeds: Floats, class_embeds: Floats, labels: Ints, names: Sequence[str], ids: Sequence[str] | None = None
) -> dict[str, Any]:
    """Zero-shot top-1 and top-5, and top-1 of each class that has pictures, with Wilson's 95 % intervals.

    Two classes with the same name are one answer; ties count as wrong.

    Args:
        image_embeds: (N, D). class_embeds: (C, D). labels: (N,) class indices.
        names: C names. ids: C ids for the table, the names when there are none.
    """
    if len(image_embeds) == 0:
        raise DataError("no pictures to classify")
    first, answer = _distinct(names, len(names))
    pairs = np.stack((np.arange(len(labels)), answer[labels]), axis=1)
    _, places = ranks(image_embeds, class_embeds[first], pairs)
    per_class = []
    for label in np.unique(labels):
        hits = places[labels == label] == 1
        share = dataclasses.asdict(wilson(int(hits.sum()), len(hits)))
        per_class.append({"id": (ids or names)[label], "name": names[label], "images": len(hits), **share})
    return {
        "images": len(image_embeds),
        "classes": len(first),
        "top_1": dataclasses.asdict(wilson(int((places <= 1).sum()), len(places))),
        "top_5": dataclasses.asdict(wilson(int((places <= 5).sum()), len(places))),
        "mean_per_class": {"value": float(np.mean([row["value"] for row in per_class]))},
        "per_class": per_class,
    }


def evenly(count: int, limit: int | None) -> list[int]:
    """At most `limit` of `count` samples, spread over all of them: class folders are sorted by class."""
    wanted = count if limit is None else min(limit, count)
    return [i * count // wanted for i in range(wanted)]


def embed_dataset(
    loaded: Measurable,
    dataset: DataSet,
    *,
    limit: int | None = None,
    batch_size: int = BATCH_SIZE,
    console: Console = SILENT,
) -> Embedded:
    """The pictures of `dataset` as unit vectors in fp32; pictures that cannot be read are named in `skipped`.

    Raises:
        DataError: no picture can be read.
    """
    chosen = evenly(len(dataset), limit)
    count = len(chosen)
    batches = [chosen[i : i + batch_size] for i in range(0, count, batch_size)]
    rows: list[Floats] = []
    kept: list[Sample] = []
    skipped: list[dict[str, str]] = []
    with (
        ThreadPoolExecutor(max_workers=os.cpu_count()) as pool,
        console.progress(f"embed {dataset.name}/{dataset.split}", count, "pictures") as meter,
    ):
        for batch in _read_ahead(pool, dataset, batches, loaded.preprocess):
            whole = [item for item in batch if isinstance(item, _Picture)]
            skipped += [{"key": item.key, "reason": item.reason} for item in batch if isinstance(item, _Broken)]
            if whole:
                rows.append(embed_images(loaded, np.stack([item.pixels for item in whole])))
                kept += [item.sample for item in whole]
            meter.advance(len(batch))
    if not kept:
        raise DataError(f"no readable picture in {dataset.name}", hint="`clip-edge data check` names what is broken")
    if skipped:
        first = skipped[0]
        console.warn(f"{len(skipped)} of {count} pictures left out; the first is {first['key']}: {first['reason']}")
    return Embedded(
        images=np.concatenate(rows),
        captions=tuple(sample.captions for sample in kept),
        labels=tuple(sample.label for sample in kept),
        skipped=tuple(skipped),
    )


def embed_images(loaded: Measurable, pixels: Bytes) -> Floats:
    """(N, S, S, 3) uint8, already resized -> (N, D) unit vectors, in fp32."""
    with measuring(loaded) as device:
        batch = torch.from_numpy(normalize(pixels, loaded.preprocess)).to(device)  # (N, 3, S, S)
        return unit_rows(loaded.student.encode_image(batch).float().cpu().numpy())


def embed_texts(loaded: Measurable, texts: Sequence[str], *, batch_size: int = BATCH_SIZE) -> Floats:
    """N sentences -> (N, D) unit vectors, in fp32; a sentence that occurs twice is computed once."""
    distinct = list(dict.fromkeys(texts))
    row = {text: i for i, text in enumerate(distinct)}
    parts: list[Floats] = []
    with measuring(loaded) as device:
        for start in range(0, len(distinct), batch_size):
            tokens = torch.from_numpy(loaded.tokenizer(distinct[start : start + batch_size])).to(device)  # (B, L)
            parts.append(unit_rows(loaded.student.encode_text(tokens).float().cpu().numpy()))
    return np.concatenate(parts)[[row[text] for text in texts]]


def embed_classes(
    loaded: Measurable, names: Sequence[str], templates: Sequence[str], *, batch_size: int = BATCH_SIZE
) -> Floats:
    """C class names -> (C, D): the mean of each name's sentences, of length one again."""
    sentences = [template.replace("{}", name) for name in names for template in templates]
    embeds = embed_texts(loaded, sentences, batch_size=batch_size)
    return unit_rows(embeds.reshape(len(names), len(templates), -1).mean(axis=1))  # (C * T, D) -> (C, D)


@contextlib.contextmanager
def measuring(loaded: Measurable) -> Iterator[torch.device]:
    """Evaluation mode, fp32 and no gradients, whatever the caller was doing; every module's mode is put back."""
    student = loaded.student
    device = next(student.parameters()).device
    modes = [(module, module.training) for module in student.modules()]  # a frozen trunk differs from the rest
    student.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            yield device
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass(frozen=True)
class _Picture:
    sample: Sample
    pixels: Bytes  # (S, S, 3)


@dataclass(frozen=True)
class _Broken:
    key: str
    reason: str


def _read(dataset: DataSet, i: int, spec: PreprocessSpec) -> _Picture | _Broken:
    key = f"sample {i}"
    try:
        sample = dataset.sample(i)
        key = sample.key
        return _Picture(sample, to_pixels(open_image(sample.image), spec))
    except DataError as problem:
        return _Broken(key, problem.what)


def _read_ahead(
    pool: ThreadPoolExecutor, dataset: DataSet, batches: Sequence[Sequence[int]], spec: PreprocessSpec
) -> Iterator[list[_Picture | _Broken]]:
    """The batches in order; the next one is decoded while the caller works on this one."""
    waiting: list[list[Future[_Picture | _Broken]]] = []
    for batch in batches:
        waiting.append([pool.submit(_read, dataset, i, spec) for i in batch])
        if len(waiting) > 1:
            yield [future.result() for future in waiting.pop(0)]
    for last in waiting:
        yield [future.result() for future in last]


def _retrieve(loaded: Measurable, embedded: Embedded, lang: str, batch_size: int) -> dict[str, Any]:
    spoken = (_in_language(captions, lang) or () for captions in embedded.captions)
    described = [(i, text) for i, texts in enumerate(spoken) for text in texts]
    if not described:
        raise DataError(
            f"no captions in language `{lang}` among the pictures measured",
            hint="name another --lang or a larger --limit",
        )
    texts = [text for _, text in described]
    owner = np.array([i for i, _ in described], dtype=np.int64)
    return retrieval(embedded.images, embed_texts(loaded, texts, batch_size=batch_size), owner, texts)


def _classify(
    loaded: Measurable,
    embedded: Embedded,
    classes: Sequence[ClassInfo],
    lang: str,
    templates: Sequence[str],
    batch_size: int,
) -> dict[str, Any]:
    """Pictures that show exactly one class, against all classes of the same kind (seen in training, or unseen)."""
    split_of = {entry.id: entry.split for entry in classes}
    kinds = {split_of[label] for label in embedded.labels if label is not None}
    named = [(entry.id, _in_language(entry.names, lang)) for entry in classes if entry.split in kinds]
    candidates = {id_: name for id_, name in named if name}
    position = {id_: i for i, id_ in enumerate(candidates)}
    shown = [(i, position[label]) for i, label in enumerate(embedded.labels) if label in position]
    if not shown:
        raise DataError("no picture shows exactly one class", hint="measure retrieval with --task retrieve")
    names = list(candidates.values())
    return classification(
        embedded.images[[i for i, _ in shown]],
        embed_classes(loaded, names, templates, batch_size=batch_size),
        np.array([label for _, label in shown], dtype=np.int64),
        names,
        list(candidates),
    )


def _languages(dataset: DataSet, task: Task, langs: Sequence[str]) -> tuple[str, ...]:
    """The languages to measure, in the order asked; text of an unknown language ("") answers to every name."""
    named = (lang for entry in dataset.classes for lang in entry.names)
    known = dataset.langs if task == "retrieve" else tuple(dict.fromkeys(named))
    for lang in langs:
        if lang not in known and "" not in known:
            what = "captions" if task == "retrieve" else "class names"
            raise DataError(f"no {what} in language `{lang}` in {dataset.name}", hint=f"it has: {', '.join(known)}")
    captioned = tuple(lang for lang in dataset.langs if lang in known)  # classes have names in more languages
    return tuple(dict.fromkeys(langs)) or captioned or known


def _in_language(texts: Mapping[str, T], lang: str) -> T | None:
    return texts.get(lang) or texts.get("")


def _distinct(texts: Sequence[str] | None, count: int) -> tuple[Ints, Ints]:
    """The first place of each distinct text (U,), and the number of its distinct text for every place (count,)."""
    if texts is None:
        return np.arange(count), np.arange(count)
    number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    member = np.array([number[text] for text in texts], dtype=np.int64)
    _, first = np.unique(member, return_index=True)
    return first, member


def _recalls(places: Ints, pictures: Ints, candidates: int) -> dict[str, Any]:
    """The figures of one direction: (A,) ranks of the queries, and the picture that each one is about (A,)."""
    recalls = {f"recall_at_{k}": dataclasses.asdict(clustered(places <= k, pictures)) for k in KS}
    return {"queries": len(places), "candidates": candidates, **recalls, "median_rank": float(np.median(places))}


def _mean(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean over the languages of every share, in the same nesting."""
    first = figures[0]
    if "value" in first:
        return {"value": float(np.mean([entry["value"] for entry in figures]))}
    return {key: _mean([entry[key] for entry in figures]) for key, value in first.items() if isinstance(value, dict)}
