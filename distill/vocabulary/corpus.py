"""Sentences to trim or learn a vocabulary for: files, data sets, and the built-in names and captions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_edge.distill.data.sentences import read_sentences
from clip_edge.errors import DataError, UsageError, unknown_name

SCENES = 2000  # built-in captions per language: every name many times, in every kind of sentence


@dataclass(frozen=True)
class Corpus:
    """Different sentences by where they come from: a file's name, or a language. `left_out` counts the samples of data
    sets whose captions cannot be read."""

    sentences: dict[str, list[str]]
    left_out: dict[str, int]


def read_corpus(files: Sequence[Path], langs: Sequence[str]) -> Corpus:
    """All sentences of files, data sets and languages.

    A `.txt` file has one sentence on each line; every other path is a data set (`readers.open_dataset`), all of whose
    captions count. `langs` adds the names and captions of the built-in data.

    Raises:
        UsageError: neither files nor languages, or a language that the built-in data does not have.
        DataError: a file that cannot be read (`sentences.read_sentences`).
    """
    found: dict[str, list[str]] = {}
    left_out: dict[str, int] = {}
    for path in files:  # names alone: they travel with the student
        if path.suffix == ".txt":
            found[path.name] = list(read_sentences(path))
        else:
            found[path.name], count = _captions(path)
            left_out |= {path.name: count} if count else {}
    found |= {lang: builtin_sentences(lang) for lang in langs}
    found = {name: list(dict.fromkeys(filter(None, texts))) for name, texts in found.items()}
    if not any(found.values()):
        raise UsageError("no sentence to go by", hint="give --corpus FILE, or --langs en,zh for the built-in data")
    return Corpus(found, left_out)


def builtin_sentences(lang: str) -> list[str]:
    """Names and captions of the built-in data in one language, always the same ones."""
    from clip_edge.distill.data.captions import Relation, captions, languages
    from clip_edge.distill.data.emoji import usable_emoji

    if lang not in languages():
        raise unknown_name("language", lang, languages())
    words, names = languages()[lang], [emoji.names[lang] for emoji in usable_emoji()]
    rng = random.Random(f"vocabulary/{lang}")
    texts = list(names)
    for number in range(SCENES):
        chosen = rng.sample(names, 1 + number % 4)
        kind = rng.choice(("left", "right", "above", "below"))
        relation = Relation(0, kind, 1) if len(chosen) > 1 else None
        texts += captions(words, chosen, rng.choice(list(words.colours)), relation, rng)
    return texts


def _captions(path: Path) -> tuple[list[str], int]:
    """All captions of a data set, and how many samples cannot be read; `data check` names those."""
    from clip_edge.distill.data.readers import data_splits, open_dataset

    found: list[str] = []
    left_out = 0
    for split in data_splits(path):
        dataset = open_dataset(path, split)
        left_out += len(dataset.problems)
        for i in range(len(dataset)):
            try:
                captions = dataset.sample(i).captions
            except DataError:
                left_out += 1
                continue
            found += itertools.chain.from_iterable(captions.values())
    return found, left_out
