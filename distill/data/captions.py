"""Scenes in words: templates in fourteen languages, kept as data in languages.toml."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_edge.config import read_toml
from clip_edge.schema import build

RELATIONS = ("left", "right", "above", "below")


@dataclass(frozen=True)
class Language:
    """The templates of one language; languages.toml says what each is for."""

    joins: tuple[str, str]
    on: str
    counts: tuple[str, str, str, str]
    scene: tuple[str, str]
    counted: str
    left: str
    right: str
    above: str
    below: str
    related: str
    related_more: str
    colours: dict[str, str]


@dataclass(frozen=True)
class Relation:
    """Object `first` stands to the left or right of, above or below object `second` (indices into the scene)."""

    first: int
    kind: str  # one of RELATIONS
    second: int


@functools.cache
def languages() -> Mapping[str, Language]:
    """Language code -> templates, in the order of languages.toml (English first)."""
    path = Path(__file__).with_name("languages.toml")
    return {code: build(Language, table, where=f"{path} [{code}]") for code, table in read_toml(path).items()}


def captions(
    language: Language, names: Sequence[str], colour: str, relation: Relation | None, rng: random.Random
) -> tuple[str, ...]:
    """Two or three different captions of one scene; each names every object and the background.

    `names` are the objects in that language, `rng` picks the wording and the order of the objects.
    """
    on = language.on.format(colour=language.colours[colour])
    order = rng.sample(list(names), len(names))
    listed, backwards = _join(language, order), _join(language, order[::-1])
    found = [rng.choice(language.scene).format(objects=listed, on=on)]
    if relation is not None:
        words = getattr(language, relation.kind).format(a=names[relation.first], b=names[relation.second])
        others = [name for i, name in enumerate(names) if i not in (relation.first, relation.second)]
        template = language.related_more if others else language.related
        found.append(template.format(relation=words, others=_join(language, others), on=on))
    found.append(language.counted.format(count=language.counts[len(names) - 1], objects=backwards, on=on))
    return tuple(found)


def _join(language: Language, names: Sequence[str]) -> str:
    middle, last = language.joins
    return names[0] if len(names) == 1 else middle.join(names[:-1]) + last + names[-1] if names else ""
