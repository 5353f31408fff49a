"""Where a model comes from: our student folders and the field's own formats, all as one `Exportable`."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from torch import nn

from clip_edge.bundle import Embedding, ImageInput, Licence, TextInput, Tower, embedding_space
from clip_edge.distill.models.pretrained import FAMILIES
from clip_edge.distill.models.student import Student
from clip_edge.preprocess import Bytes, PreprocessSpec
from clip_edge.tokenizer import Tokenizer


@dataclass(frozen=True)
class Exportable:
    """A model whatever it came from: two towers that give unit rows, and everything that belongs to them.

    `image` maps (B, 3, S, S) normalised pixels, `text` (B, L) int64 ids, each to (B, D); both are in evaluation mode,
    fp32, on the CPU, and may still hold training-time branches (the exporter folds a copy).
    """

    name: str
    where: str  # for messages: the folder, or the specification as it was given
    image: nn.Module
    text: nn.Module
    tokenizer: Tokenizer
    image_input: ImageInput
    text_input: TextInput
    dim: int
    logit_scale: float  # exp(theta)
    logit_bias: float | None
    architecture: object  # JSON: two models with the same weights can still compute different things
    licences: tuple[Licence, ...]
    research_only: bool
    provenance: dict[str, Any]
    example_images: Sequence[Bytes] = field(default=())  # (H, W, 3) uint8 RGB, real ones for the golden set
    example_texts: Sequence[str] = field(default=())
    student: Student | None = None  # what both towers are parts of, where it can be cut up for segmentation

    @property
    def preprocess(self) -> PreprocessSpec:
        """From an upright picture to pixels."""
        return self.image_input.preprocess

    @property
    def random(self) -> bool:
        """Whether nothing was learned yet: good for measuring speed and size."""
        return bool(self.provenance.get("weights") == "random")

    @property
    def towers(self) -> dict[Tower, nn.Module]:
        """Both towers by name."""
        return {"image": self.image, "text": self.text}

    def weights_sha256(self) -> str:
        """One hash over all weights that shape an embedding, whatever file they came from."""
        digest = hashlib.sha256()
        for tower, module in self.towers.items():
            for name, value in sorted(module.state_dict().items()):
                digest.update(f"{tower}.{name} {value.dtype} {tuple(value.shape)}\n".encode())
                digest.update(value.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def embedding(self) -> Embedding:
        """What leaves the towers, with the id of its vector space."""
        tokenizer = self.tokenizer
        space = embedding_space(
            self.weights_sha256(), self.architecture, self.preprocess, tokenizer.spec, tokenizer.json_bytes
        )
        return Embedding(space, self.dim, True, self.logit_scale, self.logit_bias)


class _Module(Protocol):
    def load(self, source: str) -> Exportable: ...


# prefix before the first colon -> module with `load(source: str) -> Exportable`; anything else is a folder of ours
FOLDER = "clip_edge.export.sources.student"
SOURCES: dict[str, str] = {"student": FOLDER, **dict.fromkeys(FAMILIES, "clip_edge.export.sources.pretrained")}


def load_source(source: str | Path) -> Exportable:
    """The model that MODEL names: a student folder, the run folder that holds one, or `PREFIX:REST` of `SOURCES`.

    Raises:
        UsageError: nothing there.
        CheckpointError: it cannot be read, or its parts do not belong together.
        UnavailableError: the package that reads it is not installed.
    """
    text = str(source)
    module = SOURCES.get(text.partition(":")[0], FOLDER) if ":" in text else FOLDER
    return cast(_Module, importlib.import_module(module)).load(text)
