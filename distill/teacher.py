"""Frozen teachers behind one interface: our own student folders, open_clip models, Hugging Face CLIP folders.

A teacher never trains: no gradient, evaluation mode, fp32, whatever the caller is doing around it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip_edge.distill.models.pretrained import FORMS, is_pretrained, load_pretrained
from clip_edge.errors import CheckpointError, UsageError
from clip_edge.preprocess import Bytes, PreprocessSpec, normalize
from clip_edge.schema import as_dict
from clip_edge.tokenizer import Tokenizer

PROBES = ("a photo of a cat", "Ein Bild: zwei Äpfel!", "图片：猫和狗", "😀 & <b>HTML</b>", "", "word " * 200)


@dataclass(frozen=True)
class TeacherInfo:
    """Everything that stored embeddings depend on, and what a loss needs to use them. `logit_scale` is exp(theta).

    `tokenizer_sha256` hashes the ids of fixed sentences, so it is comparable between kinds of tokenizers.
    """

    source: str
    name: str
    dim: int
    logit_scale: float
    logit_bias: float | None
    preprocess: PreprocessSpec
    weights_sha256: str
    architecture_sha256: str
    tokenizer_sha256: str
    licence: str | None = None
    research_only: bool = False

    def same_numbers(self, other: TeacherInfo) -> bool:
        """Whether both give the same embeddings; names and places of files do not matter."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("dim", "preprocess", "weights_sha256", "architecture_sha256", "tokenizer_sha256")
        )


@dataclass(frozen=True)
class Towers:
    """A loaded model as functions, normalised or not."""

    model: nn.Module
    image: Callable[[Tensor], Tensor]  # (N, 3, S, S) -> (N, D)
    text: Callable[[Tensor], Tensor]  # (N, L) -> (N, D)
    tokenizer: Tokenizer
    preprocess: PreprocessSpec
    architecture: object  # JSON: two models with the same weights can still compute different things
    name: str
    licence: str | None = None
    research_only: bool = False
    # What the towers compute inside, beside their embeddings; None where it cannot be seen.
    image_map: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None  # (N, 3, S, S) -> (N, D), (N, C, h, w)
    text_words: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None  # (N, L) -> (N, D), (N, L, W)


class Teacher:
    """One frozen model. It is no `nn.Module`, so a student's `train()`, `to()` or optimiser never reaches it."""

    def __init__(self, source: str, towers: Towers, device: torch.device) -> None:
        self._towers = towers
        self.model = towers.model
        self.device = device
        for part in (towers.model, towers.image, towers.text):
            if isinstance(part, nn.Module):
                part.to(device, torch.float32).eval().requires_grad_(False)
        model = towers.model
        scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
        if scale is None:
            raise CheckpointError(f"the teacher `{source}` has no logit scale: it is no contrastive model")
        self.info = TeacherInfo(
            source=source,
            name=towers.name,
            dim=self.encode_texts([""]).shape[1],
            logit_scale=float(scale.exp()),
            logit_bias=None if bias is None else float(bias),
            preprocess=towers.preprocess,
            weights_sha256=weights_sha256(model),
            architecture_sha256=_sha256(json.dumps(towers.architecture, sort_keys=True, default=str).encode()),
            tokenizer_sha256=tokenizer_sha256(towers.tokenizer),
            licence=towers.licence,
            research_only=towers.research_only,
        )

    def encode_images(self, pixels: Bytes) -> Tensor:
        """(N, S, S, 3) uint8 at this teacher's size -> (N, D) unit vectors, fp32, on the teacher's device."""
        batch = torch.from_numpy(normalize(pixels, self._towers.preprocess)).to(self.device)  # (N, 3, S, S)
        with self._frozen():
            return F.normalize(self._towers.image(batch).float(), dim=-1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """N sentences -> (N, D) unit vectors, fp32, on the teacher's device."""
        tokens = torch.from_numpy(self._towers.tokenizer(texts)).to(self.device)  # (N, L)
        with self._frozen():
            return F.normalize(self._towers.text(tokens).float(), dim=-1)

    def image_features(self, pixels: Bytes) -> tuple[Tensor, Tensor | None]:
        """As `encode_images`, and the last feature map (N, C, h, w) of a tower that shows it."""
        if self._towers.image_map is None:
            return self.encode_images(pixels), None
        batch = torch.from_numpy(normalize(pixels, self._towers.preprocess)).to(self.device)  # (N, 3, S, S)
        with self._frozen():
            embedded, levels = self._towers.image_map(batch)
            return F.normalize(embedded.float(), dim=-1), levels.float()

    def text_features(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """As `encode_texts`, and the features (N, L, W) of all tokens of a tower that shows them."""
        if self._towers.text_words is None:
            return self.encode_texts(texts), None
        tokens = torch.from_numpy(self._towers.tokenizer(texts)).to(self.device)  # (N, L)
        with self._frozen():
            embedded, words = self._towers.text_words(tokens)
            return F.normalize(embedded.float(), dim=-1), words.float()

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """No gradients, and fp32 even inside a training step that runs under autocast."""
        if self.model.training:
            self.model.eval()
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            yield


def load_teacher(spec: str, *, device: str | torch.device | None = None) -> Teacher:
    """The teacher that `spec` names, frozen, on `device` (default: a GPU when there is one).

    Raises:
        UsageError: no such teacher, or a name without weights.
        CheckpointError: weights that cannot be read or do not fit.
        UnavailableError: a package is missing, or weights would have to be downloaded and cannot be.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if is_pretrained(spec):
        towers = _load_pretrained(spec)
    elif Path(spec).exists():
        towers = _load_student(spec, where)
    else:
        raise UsageError(f"no such teacher: `{spec}`", hint=f"a teacher is a student folder, {FORMS}")
    return Teacher(spec, towers, where)


def weights_sha256(model: nn.Module) -> str:
    """A hash of all parameters and buffers: names, shapes, types and values, whatever file they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """A hash of the ids of fixed sentences: equal where two tokenizers cut sentences into the same tokens."""
    return _sha256(tokenizer(PROBES).tobytes())


def _sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _load_student(path: str, device: torch.device) -> Towers:
    from clip_edge.distill.batches import encode_texts
    from clip_edge.distill.models.adapted import inside_image, inside_text, shows_maps
    from clip_edge.distill.models.checkpoint import load_student
    from clip_edge.distill.models.image import memory_format

    loaded = load_student(Path(path))
    student = loaded.student
    layout = memory_format(student.image.trunk, device)
    student.image.to(memory_format=layout)  # half the time of a depthwise trunk on a CPU
    return Towers(
        model=student,
        image=student.encode_image,
        text=lambda tokens: encode_texts(student, tokens),  # without the padding
        tokenizer=loaded.tokenizer,
        preprocess=loaded.preprocess,
        architecture=as_dict(loaded.spec),
        name=str(loaded.info.get("name", Path(path).name)),
        licence=", ".join(str(entry["name"]) for entry in loaded.info.get("licences", [])) or None,
        research_only=bool(loaded.info.get("research_only", False)),
        image_map=functools.partial(inside_image, student) if shows_maps(student) else None,
        text_words=functools.partial(inside_text, student),
    )


def _load_pretrained(spec: str) -> Towers:
    from clip_edge.distill.models.inside import image_inside, text_inside

    loaded = load_pretrained(spec)
    if loaded.random:
        raise UsageError(f"`{spec}` has random weights: there is nothing to learn from it", hint=f"name {FORMS}")
    return Towers(
        model=loaded.whole,
        image=loaded.image,
        text=loaded.text,
        tokenizer=loaded.tokenizer,
        preprocess=loaded.preprocess,
        architecture=loaded.architecture,
        name=loaded.name,
        licence=", ".join(licence.name for licence in loaded.licences) or None,
        research_only=loaded.research_only,
        image_map=image_inside(loaded.image),
        text_words=text_inside(loaded.text),
    )
