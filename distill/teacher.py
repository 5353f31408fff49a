"""Frozen teachers behind one interface: our own student folders, open_clip models, Hugging Face CLIP folders.

A teacher never trains: no gradient, evaluation mode, fp32, whatever the caller is doing around it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip_edge.errors import CheckpointError, ConfigError, UnavailableError, UsageError, unknown_name
from clip_edge.files import read_json
from clip_edge.preprocess import Bytes, PreprocessSpec, normalize
from clip_edge.schema import as_dict, build

FORMS = "a student folder, open_clip:NAME:TAG, open_clip:NAME:FILE, open_clip:FOLDER, or hf:FOLDER"
APPLE_RESEARCH = "apple-amlr"  # MobileCLIP and DFN weights: research only, and so is what is distilled from them
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
    """A loaded model as functions. `tokenise` gives the keyword arguments of `text`."""

    model: nn.Module
    image: Callable[[Tensor], Tensor]  # (N, 3, S, S) -> (N, D)
    text: Callable[..., Tensor]  # -> (N, D)
    tokenise: Callable[[Sequence[str]], dict[str, Tensor]]
    preprocess: PreprocessSpec
    architecture: object  # JSON: two models with the same weights can still compute different things
    name: str
    licence: str | None = None
    research_only: bool = False


class Teacher:
    """One frozen model. It is no `nn.Module`, so a student's `train()`, `to()` or optimiser never reaches it."""

    def __init__(self, source: str, towers: Towers, device: torch.device) -> None:
        self._towers = towers
        self.model = towers.model
        self.device = device
        model = towers.model.to(device, torch.float32).eval().requires_grad_(False)
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
            tokenizer_sha256=_sha256(*(value.numpy().tobytes() for value in towers.tokenise(PROBES).values())),
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
        tokens = {name: value.to(self.device) for name, value in self._towers.tokenise(texts).items()}
        with self._frozen():
            return F.normalize(self._towers.text(**tokens).float(), dim=-1)

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
    scheme, colon, rest = spec.partition(":")
    if colon and scheme in SCHEMES and rest:
        towers = SCHEMES[scheme](rest)
    elif Path(spec).exists():
        towers = _load_student(spec)
    else:
        raise UsageError(f"no such teacher: `{spec}`", hint=f"a teacher is {FORMS}")
    return Teacher(spec, towers, torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))


def weights_sha256(model: nn.Module) -> str:
    """A hash of all parameters and buffers: names, shapes, types and values, whatever file they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _load_student(path: str) -> Towers:
    from clip_edge.distill.batches import encode_texts
    from clip_edge.distill.models.checkpoint import load_student

    loaded = load_student(Path(path))
    student = loaded.student
    student.image.to(memory_format=torch.channels_last)  # half the time of a depthwise trunk on a CPU
    return Towers(
        model=student,
        image=student.encode_image,
        text=lambda tokens: encode_texts(student, tokens),  # without the padding
        tokenise=lambda texts: {"tokens": torch.from_numpy(loaded.tokenizer(texts))},
        preprocess=loaded.preprocess,
        architecture=as_dict(loaded.spec),
        name=str(loaded.info.get("name", Path(path).name)),
        licence=", ".join(str(entry["name"]) for entry in loaded.info.get("licences", [])) or None,
        research_only=bool(loaded.info.get("research_only", False)),
    )


def _load_open_clip(rest: str) -> Towers:
    import open_clip

    folder = Path(rest)
    if (folder / "open_clip_config.json").is_file():
        name, weights, identifier = folder.name, None, f"local-dir:{rest}"
        architecture = read_json(folder / "open_clip_config.json", error=CheckpointError)
    else:
        name, weights = _open_clip_name(rest, open_clip)
        identifier, architecture = name, open_clip.get_model_config(name)
    model: Any = _create_open_clip(open_clip, identifier, weights)
    tokenizer = open_clip.get_tokenizer(identifier)
    restricted = name.startswith("MobileCLIP") or (weights or "").startswith(("datacompdr", "dfn"))
    return Towers(
        model=model,
        image=lambda pixels: model.encode_image(pixels),
        text=lambda tokens: model.encode_text(tokens),
        tokenise=lambda texts: {"tokens": tokenizer(list(texts))},
        preprocess=_open_clip_preprocess(open_clip.get_model_preprocess_cfg(model), name),
        architecture=architecture,
        name=name,
        licence=APPLE_RESEARCH if restricted else None,
        research_only=restricted,
    )


def _open_clip_name(rest: str, open_clip: Any) -> tuple[str, str]:
    """NAME and TAG-or-file of `NAME:TAG`."""
    name, _, weights = rest.partition(":")
    models = open_clip.list_models()
    if name not in models:
        raise unknown_name("open_clip model", name, models)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not weights:
        choices = f"known tags: {', '.join(tags)}" if tags else "open_clip has none for it; name a file"
        raise UsageError(f"`open_clip:{name}` names no weights", hint=f"write open_clip:{name}:TAG or :FILE; {choices}")
    if not Path(weights).is_file() and weights not in tags:
        raise unknown_name(f"tag or file for {name}", weights, tags)
    return name, weights


def _create_open_clip(open_clip: Any, identifier: str, weights: str | None) -> nn.Module:
    where = weights or identifier.removeprefix("local-dir:")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            model: nn.Module = open_clip.create_model(
                identifier, pretrained=weights, require_pretrained=True, weights_only=True
            )
        except Exception as problem:  # open_clip and the loaders below it raise anything
            if weights is not None and not Path(weights).is_file():
                raise UnavailableError(
                    f"the weights `{weights}` of {identifier} cannot be downloaded: {problem}",
                    hint=f"download them elsewhere and name the file: open_clip:{identifier}:FILE",
                ) from problem
            raise CheckpointError(f"open_clip cannot load these weights: {problem}", where=where) from problem
    if any("QuickGELU mismatch" in str(warning.message) for warning in told):
        raise UsageError(
            f"`{weights}` was trained with another activation than {identifier}: its embeddings would be wrong",
            hint=f"name the variant of the model that fits, for example {identifier}-quickgelu",
        )
    return model


def _open_clip_preprocess(config: dict[str, Any], name: str) -> PreprocessSpec:
    size = config["size"]
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ConfigError(f"{name} takes pictures of {size}: only square ones are supported")
    picked = {key: config[key] for key in ("interpolation", "mean", "std")} | {"resize": config["resize_mode"]}
    return build(PreprocessSpec, {"size": sides.pop(), **picked}, where=name)


def _load_hugging_face(rest: str) -> Towers:
    folder = Path(rest)
    if not (folder / "config.json").is_file():
        raise UsageError(f"no Hugging Face model in `{rest}`", hint="name a folder that holds config.json")
    config = read_json(folder / "config.json", error=CheckpointError)
    kind = config.get("model_type")
    if kind not in HF_KINDS:
        raise unknown_name("Hugging Face model type", str(kind), HF_KINDS)
    transformers = import_transformers()
    try:
        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as problem:  # transformers raises anything
        raise CheckpointError(f"transformers cannot load this model: {problem}", where=folder) from problem
    length = model.config.text_config.max_position_embeddings

    def tokenise(texts: Sequence[str]) -> dict[str, Tensor]:
        row = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return {key: row[key] for key in HF_KINDS[kind]}

    return Towers(
        model=model,
        image=lambda pixels: _pooled(model.get_image_features(pixel_values=pixels)),
        text=lambda **tokens: _pooled(model.get_text_features(**tokens)),
        tokenise=tokenise,
        preprocess=hugging_face_preprocess(folder),
        architecture={key: value for key, value in config.items() if key != "_name_or_path"},
        name=folder.resolve().name,
    )


HF_KINDS = {"clip": ("input_ids", "attention_mask"), "siglip": ("input_ids",)}  # SigLIP was trained without a mask


def import_transformers() -> Any:
    """The transformers package, which is no requirement of clip-edge.

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as problem:
        raise UnavailableError(
            "Hugging Face models need the package transformers", hint="pip install 'clip-edge[hf]'"
        ) from problem
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _pooled(output: Any) -> Tensor:
    """transformers 4 returns the embeddings, 5 an object that holds them."""
    pooled: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return pooled


def hugging_face_preprocess(folder: Path) -> PreprocessSpec:
    """preprocessor_config.json as our specification."""
    file = folder / "preprocessor_config.json"
    config = read_json(file, error=CheckpointError)
    size, crop = config.get("size", {}), config.get("crop_size", {})
    shape = crop if config.get("do_center_crop", bool(crop)) and crop else size
    shape = {"height": shape, "width": shape} if isinstance(shape, int) else shape
    side = shape.get("height", shape.get("shortest_edge"))
    if shape.get("width", side) != side:
        raise ConfigError(f"the model takes pictures of {shape}: only square ones are supported", where=file)
    shortest = isinstance(size, int) or "shortest_edge" in size
    values = {
        "size": side,
        "resize": "shortest" if shortest else "squash",
        "interpolation": {2: "bilinear", 3: "bicubic"}.get(config.get("resample", 3), config.get("resample")),
        "mean": config.get("image_mean"),
        "std": config.get("image_std"),
    }
    return build(PreprocessSpec, values, where=file, error=CheckpointError)


SCHEMES: dict[str, Callable[[str], Towers]] = {"open_clip": _load_open_clip, "hf": _load_hugging_face}
