"""Several data sets measured in one go, each by its own metric, in the manner of ELEVATER (Li et al. 2022): the figures
of every data set in every language, and their means.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from clip_edge.config import read_toml
from clip_edge.console import SILENT, Console
from clip_edge.distill.data.readers import data_splits, open_dataset
from clip_edge.distill.data.samples import DataSet, warn_of_problems
from clip_edge.distill.evaluate import BATCH_SIZE, Measurable, Task, evaluate
from clip_edge.errors import ConfigError
from clip_edge.schema import build

RECALLS = ("text_to_image", "image_to_text")  # R@1; all other metrics are of classification


@dataclass(frozen=True)
class Entry:
    """A table `[[data]]`: a data set, and the metric that counts. Paths are relative to the suite's file.

    `names` is a TOML file with the names of classes in several languages, `CLASS = { en = "cat", zh = "猫" }`.
    """

    path: str
    metric: Literal["top_1", "top_5", "mean_per_class", "text_to_image", "image_to_text"] = "top_1"
    split: str = ""
    name: str = ""
    names: str = ""

    @property
    def task(self) -> Task:
        return "retrieve" if self.metric in RECALLS else "classify"


@dataclass(frozen=True)
class Suite:
    """A file of such tables."""

    data: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("expected at least one table `[[data]]`; found none")


def measure(
    loaded: Measurable,
    file: Path,
    *,
    langs: Sequence[str] = (),
    limit: int | None = None,
    batch_size: int = BATCH_SIZE,
    templates: Sequence[str] = (),
    console: Console = SILENT,
) -> dict[str, Any]:
    """Measure `loaded` on every data set of the suite in `file`; the other arguments as `evaluate`.

    Returns:
        {data: [{name, split, metric, images, skipped, languages: {lang: share}, mean}], languages: {lang: {value}},
        mean: {value}}: the means over the data sets, of a language only when every data set has it.

    Raises:
        ConfigError: the file is no suite, or names of classes belong to no class.
        UsageError, DataError: a data set is not there, or lacks a language.
    """
    suite = build(Suite, read_toml(file), where=file)
    rows = []
    for entry in suite.data:
        dataset = _open(entry, file.parent)
        warn_of_problems(dataset, console)
        found = evaluate(
            loaded,
            dataset,
            task=entry.task,
            langs=langs,
            limit=limit,
            batch_size=batch_size,
            templates=templates,
            console=console,
        )
        shares = {lang: _share(figures, entry) for lang, figures in found["languages"].items()}
        kept = {key: found[key] for key in ("split", "images", "skipped")}
        average = {"value": mean(share["value"] for share in shares.values())}
        name = entry.name or dataset.name
        rows.append({"name": name, "metric": entry.metric, **kept, "languages": shares, "mean": average})
    common = [lang for lang in rows[0]["languages"] if all(lang in row["languages"] for row in rows)]
    return {
        "data": rows,
        "languages": {lang: {"value": mean(row["languages"][lang]["value"] for row in rows)} for lang in common},
        "mean": {"value": mean(row["mean"]["value"] for row in rows)},
    }


def _share(figures: Mapping[str, Any], entry: Entry) -> dict[str, float]:
    found: dict[str, Any] = figures[entry.metric]
    return found["recall_at_1"] if entry.task == "retrieve" else found


def _open(entry: Entry, folder: Path) -> DataSet:
    path = folder / entry.path
    splits = data_splits(path)
    dataset = open_dataset(path, entry.split or (splits[0] if len(splits) == 1 else "test"))
    if not entry.names:
        return dataset
    named = read_toml(folder / entry.names)
    unknown = sorted(set(named) - {one.id for one in dataset.classes})
    if unknown:
        raise ConfigError(
            f"names for `{unknown[0]}`, which is no class of {dataset.name}",
            where=folder / entry.names,
            hint=f"its classes: {', '.join(one.id for one in dataset.classes[:8])}",
        )
    classes = tuple(
        dataclasses.replace(one, names=dict(named[one.id])) if one.id in named else one for one in dataset.classes
    )
    return dataclasses.replace(dataset, classes=classes)
