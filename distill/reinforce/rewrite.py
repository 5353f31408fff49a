"""New true sentences about scenes of the built-in data set: a captioner that needs no weights."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

from clip_edge.distill.data.captions import captions, languages
from clip_edge.distill.data.samples import PARTS, DataSet
from clip_edge.distill.data.scenes import find_relation
from clip_edge.distill.templates import templates_for
from clip_edge.errors import DataError, UsageError
from clip_edge.files import parse_json
from clip_edge.schema import build

TRIES = 12  # wordings asked of the scene's own grammar; more rarely find another sentence


@dataclass(frozen=True)
class Thing:
    """An object of a scene."""

    id: str
    box: tuple[int, int, int, int]
    area_px: int


@dataclass(frozen=True)
class SceneFacts:
    """The JSON member of a scene, as far as sentences are made from it."""

    objects: tuple[Thing, ...]
    background: dict[str, str]
    captions: dict[str, Any] = field(default_factory=dict)
    relation: Any = None


def require_built_in(dataset: DataSet) -> None:
    """Raise UsageError unless the scenes of `dataset` are described well enough to be put into other words."""
    if not dataset.info or not dataset.classes:
        raise UsageError(
            f"the captioner `rewrite` needs the built-in data set; {dataset.name} is another one",
            hint="give captions with --captioner file:captions.jsonl, or name a model: --captioner open_clip:...",
        )


def scene_facts(dataset: DataSet, i: int) -> SceneFacts:
    """What the JSON member of sample `i` says about its scene."""
    number, offset, length = (int(value) for value in dataset.index[i, PARTS.index("meta")])
    where = f"{dataset.where(i)}: {dataset.keys[i]}"
    if number < 0:
        raise DataError("the scene has no JSON member", where=where)
    with Path(dataset.files[number]).open("rb") as file:
        file.seek(offset)
        data = file.read(length)
    return build(SceneFacts, parse_json(data, where=where, error=DataError), where=where, error=DataError)


def rewrite(
    facts: SceneFacts, names: Mapping[str, Mapping[str, str]], lang: str, count: int, rng: random.Random
) -> tuple[str, ...]:
    """Up to `count` sentences in `lang` that are true of the scene and are not among its own captions.

    `names` maps the id of a class to its name in each language.
    """
    shown = [names[thing.id][lang] for thing in facts.objects]
    boxes = [thing.box for thing in facts.objects]
    grammar = languages()[lang]
    colour = facts.background["colour"]
    found: list[str] = []
    for _ in range(TRIES):
        found += captions(grammar, shown, colour, find_relation(boxes, rng), rng)
    for order in permutations(shown):
        found += [template.replace("{}", _listed(order, grammar.joins)) for template in templates_for(lang)]
    known = set(facts.captions.get(lang, ()))
    fresh = [text for text in dict.fromkeys(found) if text not in known]
    return tuple(rng.sample(fresh, min(count, len(fresh))))


def _listed(names: Sequence[str], joins: tuple[str, str]) -> str:
    return names[0] if len(names) == 1 else joins[0].join(names[:-1]) + joins[1] + names[-1]
