"""Models of other libraries, each read one way: teachers, captioners, evaluation and export all take them from here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from clip_edge.distill.models.spec import Licence
from clip_edge.errors import CheckpointError
from clip_edge.preprocess import PreprocessSpec
from clip_edge.tokenizer import Tokenizer

Pooling = Literal["eos", "mean", "first", "last"]

# prefix before the first colon -> module with `load(rest: str) -> Pretrained`
FAMILIES = {
    "open_clip": "clip_edge.distill.models.from_open_clip",
    "hf": "clip_edge.distill.models.from_hugging_face",
}
FORMS = "open_clip:NAME:TAG, open_clip:NAME:FILE, open_clip:FOLDER, hf:REPO or hf:FOLDER"


@dataclass(frozen=True)
class TextFacts:
    """What a text tower does with a row of ids; it is inside the tower, and written down for those who rebuild it."""

    causal: bool
    pad_mask: bool
    pooling: Pooling
    activation: str


@dataclass(frozen=True)
class Pretrained:
    """A model of another library: towers in evaluation mode, fp32, on the CPU, and everything that belongs to them.

    `image` maps (N, 3, S, S) normalised pixels and `text` (N, L) ids to (N, D), not normalised; both share their
    weights with `whole`, the model as its own library built it. Padding is hidden, where it must be, by `text` itself.
    """

    whole: nn.Module
    image: nn.Module
    text: nn.Module
    tokenizer: Tokenizer
    preprocess: PreprocessSpec
    facts: TextFacts | None  # None: a captioner, whose text tower is made for its decoder
    architecture: object  # JSON: two models with the same weights can still compute different things
    name: str
    licences: tuple[Licence, ...] = ()
    random: bool = False  # nothing was learnt: good for measuring speed and size, and for nothing else
    notes: dict[str, Any] = field(default_factory=dict)  # what provenance should say

    @property
    def student(self) -> TwoTowers:
        """Both towers in the form of a student, for what measures models."""
        return TwoTowers(self.image, self.text)

    @property
    def research_only(self) -> bool:
        """Whether any licence allows nothing else."""
        return any(licence.research_only for licence in self.licences)

    def logits(self) -> tuple[float, float | None]:
        """exp of the logit scale, and the logit bias of models that were trained with a sigmoid.

        Raises:
            CheckpointError: the model has no scale.
        """
        scale, bias = getattr(self.whole, "logit_scale", None), getattr(self.whole, "logit_bias", None)
        if scale is None:
            raise CheckpointError(f"`{self.name}` has no logit scale: it is no contrastive model")
        return float(scale.exp()), None if bias is None else float(bias)


class TwoTowers(nn.Module):
    """Two towers with a student's methods; the embeddings are not normalised."""

    def __init__(self, image: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.image, self.text = image, text

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, D)"""
        return self.image(pixel_values)  # type: ignore[no-any-return]

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """(N, L) -> (N, D)"""
        return self.text(input_ids)  # type: ignore[no-any-return]


class _Module(Protocol):
    def load(self, rest: str) -> Pretrained: ...


def is_pretrained(source: str) -> bool:
    """Whether `source` has the form `FAMILY:REST`."""
    family, _, rest = source.partition(":")
    return family in FAMILIES and bool(rest)


def load_pretrained(source: str) -> Pretrained:
    """The model that `source` names (`FORMS`); `is_pretrained(source)` must hold.

    Raises:
        UsageError: no such model, or a name without weights.
        CheckpointError: weights, configuration and tokenizer that cannot be read or do not belong together.
        UnavailableError: a package is missing, or files would have to be downloaded and cannot be.
    """
    family, _, rest = source.partition(":")
    loaded = cast(_Module, importlib.import_module(FAMILIES[family])).load(rest)
    for module in (loaded.whole, loaded.image, loaded.text):
        module.to("cpu", torch.float32).eval().requires_grad_(False)
    return loaded


class FirstOutput(nn.Module):
    """A tower that gives several things, of which the first is the embedding."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, ...) -> (N, D)"""
        found: Tensor | tuple[Tensor, ...] = self.tower(inputs)
        return found[0] if isinstance(found, tuple) else found
