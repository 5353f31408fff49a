"""`clip-edge list`: the tables of recipes, students, targets and backends. Loads no engine and no torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from clip_edge.cli import Outcome
from clip_edge.console import Console

Entry = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=tuple(KINDS), help="which table")


def run(args: argparse.Namespace, console: Console) -> Outcome:
    entries = KINDS[args.kind]()
    columns = [name for name in entries[0] if name != "summary"]
    rows = [[_cell(entry[name]) for name in columns] + [entry["summary"]] for entry in entries]
    console.table([*(name.replace("_", " ") for name in columns), "what it is"], rows)
    return Outcome({args.kind: entries})


def recipes() -> list[Entry]:
    """The training recipes."""
    from clip_edge.distill.recipes import RECIPES

    return [{"name": name, "summary": info.summary} for name, info in RECIPES.items()]


def students() -> list[Entry]:
    """The built-in students and their sizes."""
    from clip_edge.distill.models.spec import list_students

    return [
        {
            "name": spec.name,
            "image_px": spec.image.size,
            "embed_dim": spec.embed_dim,
            "image_tower": spec.image.tower,
            "image_parameters": spec.parameters and spec.parameters.image,
            "text_parameters": spec.parameters and spec.parameters.text,
            "starts_from": spec.image.init,
            "summary": spec.summary,
        }
        for spec in list_students()
    ]


def targets() -> list[Entry]:
    """The formats that `export` writes."""
    from clip_edge.export.targets import TARGETS

    return [
        {"name": name, "precisions": list(target.precisions), "summary": target.summary}
        for name, target in TARGETS.items()
    ]


def backends() -> list[Entry]:
    """The engines that run bundles, and whether their package is installed here."""
    from clip_edge.runtime.backends import BACKENDS, is_installed

    return [
        {"name": name, "targets": list(backend.targets), "installed": is_installed(name), "summary": backend.summary}
        for name, backend in BACKENDS.items()
    ]


KINDS: dict[str, Callable[[], list[Entry]]] = {
    "recipes": recipes,
    "students": students,
    "targets": targets,
    "backends": backends,
}


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
