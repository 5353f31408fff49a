"""Recipes: one readable file each, with the commented defaults beside it. Loads no torch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from clip_edge.console import Console
from clip_edge.errors import unknown_name

if TYPE_CHECKING:
    from clip_edge.distill.data.samples import DataSet


@dataclass(frozen=True)
class RecipeInfo:
    """A line of the table: `Config` and `run` are in `module`, the defaults in the .toml file of the same name."""

    module: str
    summary: str

    @property
    def defaults(self) -> Path:
        return Path(__file__).with_name(self.module.rpartition(".")[2].replace("_", "-") + ".toml")

    @property
    def presets(self) -> dict[str, Path]:
        """Settings that were published, by name: the other .toml files that begin with the recipe's name."""
        others = self.defaults.parent.glob(f"{self.defaults.stem}-*.toml")
        return {path.stem: path for path in sorted(others)}


RECIPES = {
    "clip": RecipeInfo(
        "clip_edge.distill.recipes.clip", "plain contrastive training of both towers; also makes teachers"
    ),
    "dc-clip": RecipeInfo(
        "clip_edge.distill.recipes.dc_clip",
        "several languages: each tower learns its teacher's features, then both are aligned (DC-CLIP)",
    ),
    "lightclip": RecipeInfo(
        "clip_edge.distill.recipes.lightclip",
        "for small towers, no teacher needed: softened labels, words on patches, hidden words (LightCLIP)",
    ),
    "mobileclip": RecipeInfo(
        "clip_edge.distill.recipes.mobileclip", "reinforced training: what teachers know was stored once (MobileCLIP)"
    ),
    "sam-clip": RecipeInfo(
        "clip_edge.distill.recipes.sam_clip", "one backbone that names things and outlines them (SAM-CLIP)"
    ),
    "segment": RecipeInfo(
        "clip_edge.distill.recipes.segment", "outlines for points and boxes, as SAM; makes the mask teacher of sam-clip"
    ),
}


class Recipe(Protocol):
    """What a recipe's module offers."""

    Config: type[Any]

    def run(
        self, config: Any, *, data: Path, student: str | Path, out: Path, resume: bool = False, console: Console = ...
    ) -> Path: ...


class TaughtRecipe(Recipe, Protocol):
    """A recipe whose configuration has `knowledge`: what teachers know about the data."""

    def check(self, config: Any, dataset: DataSet) -> None: ...


def find(name: str) -> RecipeInfo:
    """The line of recipe `name`.

    Raises:
        UsageError: no such recipe; the nearest is named.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]


def load(name: str) -> Recipe:
    """The module of recipe `name`; still without torch, which `run` imports."""
    return cast(Recipe, importlib.import_module(find(name).module))
