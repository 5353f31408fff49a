"""CLIP-like models of Hugging Face's transformers: a folder as `save_pretrained` writes it, or a name on the hub."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clip_edge.distill.models.foreign_tokenizers import from_transformers
from clip_edge.distill.models.pretrained import Pretrained, TextFacts
from clip_edge.distill.models.spec import Licence
from clip_edge.distill.models.text_towers import BertText, PreNormText, causal_mask
from clip_edge.errors import CheckpointError, ConfigError, UnavailableError, UsageError, unknown_name
from clip_edge.files import read_json
from clip_edge.preprocess import PreprocessSpec
from clip_edge.schema import build
from clip_edge.tokenizer import Tokenizer

NEEDED = ["*.json", "*.safetensors", "*.model", "*.txt", "README.md"]  # of a repository on the hub
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
LEGACY_EOS = 2  # what configurations said before transformers 4.31; such models pool at the largest id
RESTRICTED = re.compile("apple-am|apple-ml|-nc|non-?commercial|research", re.IGNORECASE)


def load(rest: str) -> Pretrained:
    """The model in the folder `rest`, or in the repository of that name on the hub (or in its cache).

    Raises:
        UsageError: no model there, or of a kind that is not known.
        CheckpointError: weights, configuration, tokenizer and preprocessing do not belong together.
        UnavailableError: transformers is missing, or the hub cannot be reached.
    """
    folder = _folder(rest)
    config = read_json(folder / "config.json", error=CheckpointError)
    kind = config.get("model_type")
    if kind not in KINDS:
        raise unknown_name("Hugging Face model type", str(kind), KINDS)
    transformers = import_transformers()
    model = _weights(transformers, folder)
    tokenizer = _tokenizer(transformers, folder, model)
    text, facts = KINDS[kind](model, tokenizer)
    return Pretrained(
        whole=model,
        image=ImageOfTransformers(model),
        text=text,
        tokenizer=tokenizer,
        preprocess=hugging_face_preprocess(folder, expected=model.config.vision_config.image_size),
        facts=facts,
        architecture={key: value for key, value in config.items() if key != "_name_or_path"},
        name=folder.resolve().name if Path(rest).exists() else rest.rpartition("/")[2],
        licences=_licences(folder),
    )


class ImageOfTransformers(nn.Module):
    """(N, 3, S, S) -> (N, D): the vision tower and its projection, where it has one."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.trunk = model.vision_model
        self.projection = getattr(model, "visual_projection", None) or nn.Identity()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, D)"""
        return self.projection(self.trunk(pixel_values=pixel_values)[1])  # type: ignore[no-any-return]

    def inside(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) -> (N, D) and the last feature map (N, C, h, w): the patches, without the class token."""
        patches, pooled = self.trunk(pixel_values=pixel_values)[:2]
        side = math.isqrt(patches.shape[1])  # pictures are square, and at most one token is no patch
        level = patches[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))  # (N, L, C) -> (N, C, h, w)
        return self.projection(pooled), level


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


def hugging_face_preprocess(folder: Path, *, expected: int | None = None) -> PreprocessSpec:
    """preprocessor_config.json as our specification; `expected` is the picture size that the tower takes.

    Raises:
        ConfigError, CheckpointError: it does something that our preprocessing does not.
    """
    file = folder / "preprocessor_config.json"
    config = read_json(file, error=CheckpointError)
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if config.get(name, True) is not True:
            raise ConfigError(f"expected `{name}` to be true; found {config[name]}", where=file)
    if abs(config.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise ConfigError(f"expected pixels to be divided by 255; found {config['rescale_factor']}", where=file)
    size, crop = config.get("size", {}), config.get("crop_size", {})
    cropped = config.get("do_center_crop", bool(crop)) and bool(crop)
    shortest = isinstance(size, int) or "shortest_edge" in size
    side = _side(size, file)
    if cropped and _side(crop, file) != side:
        raise ConfigError(
            f"pictures are scaled to {side} and cut to {_side(crop, file)}: only equal sizes are supported", where=file
        )
    if expected is not None and side != expected:
        raise CheckpointError(f"the tower takes pictures of {expected}; its preprocessing makes {side}", where=file)
    values = {
        "size": side,
        "resize": "shortest_floor" if shortest else "squash",
        "interpolation": {2: "bilinear", 3: "bicubic"}.get(config.get("resample", 3), config.get("resample")),
        "mean": config.get("image_mean"),
        "std": config.get("image_std"),
    }
    return build(PreprocessSpec, values, where=file, error=CheckpointError)


def _side(size: Any, file: Path) -> Any:
    if isinstance(size, int):
        return size
    side = size.get("height", size.get("shortest_edge"))
    if size.get("width", side) != side:
        raise ConfigError(f"the model takes pictures of {size}: only square ones are supported", where=file)
    return side


def _folder(rest: str) -> Path:
    folder = Path(rest)
    if (folder / "config.json").is_file():
        return folder
    if folder.exists() or not REPOSITORY.fullmatch(rest):
        raise UsageError(
            f"no Hugging Face model in `{rest}`", hint="name a folder that holds config.json, or OWNER/NAME"
        )
    import_transformers()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(rest, allow_patterns=NEEDED))
    except Exception as problem:  # the client raises a dozen kinds
        raise UnavailableError(
            f"`{rest}` is not in the hub's cache here and cannot be downloaded: {str(problem).partition(chr(10))[0]}",
            hint=f"where there is a network: huggingface-cli download {rest} --local-dir DIR; then name hf:DIR",
        ) from problem


def _weights(transformers: Any, folder: Path) -> Any:
    try:
        model, report = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as problem:  # transformers raises anything
        raise CheckpointError(f"transformers cannot load this model: {str(problem)[:600]}", where=folder) from problem
    wrong = [f"missing: {name}" for name in sorted(report["missing_keys"])]
    wrong += [f"surplus: {name}" for name in sorted(report["unexpected_keys"])]
    if wrong:  # transformers would fill in random values and say nothing
        more = f"\n  … and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise CheckpointError(
            "the weights do not fit config.json:\n  " + "\n  ".join(wrong[:6]) + more,
            where=folder,
            hint="copy the model again as a whole, or name its class in config.json",
        )
    return model


def _tokenizer(transformers: Any, folder: Path, model: Any) -> Tokenizer:
    try:
        theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as problem:  # transformers raises anything, ImportError for sentencepiece included
        raise CheckpointError(
            f"transformers cannot load the tokenizer: {str(problem)[:600]}", where=folder
        ) from problem
    config = model.config.text_config
    length = config.max_position_embeddings
    if config.model_type in ("altclip_text_model", "xlm-roberta"):  # positions count from behind the padding id
        length -= config.pad_token_id + 1
    length = min(length, theirs.model_max_length, MAX_CONTEXT.get(model.config.model_type, length))
    return from_transformers(theirs, context_length=length, vocab_size=config.vocab_size)


# Context of models whose position table is longer than any caption that they were trained on: their authors'
# own processors stop here (Chinese-CLIP's `context_length`, AltCLIP's `model_max_length` of 77).
MAX_CONTEXT = {"chinese_clip": 52, "altclip": 77}


def _clip(model: Any, tokenizer: Tokenizer) -> tuple[nn.Module, TextFacts | None]:
    config, spec = model.config.text_config, tokenizer.spec
    mask = causal_mask(spec.context_length)  # nothing behind EOS is seen by it, so padding needs no mask of its own
    if config.eos_token_id == LEGACY_EOS and spec.eos_id != spec.vocab_size - 1:
        return PreNormText(model.text_model, model.text_projection, "eos", None, mask), None
    if config.eos_token_id not in (spec.eos_id, LEGACY_EOS):
        raise CheckpointError(
            f"the text tower pools at id {config.eos_token_id}; the tokenizer ends sentences with {spec.eos_id}",
            hint="tokenizer and config.json do not belong together",
        )
    tower = PreNormText(model.text_model, model.text_projection, "eos", spec.eos_id, mask)
    return tower, TextFacts(True, False, "eos", str(config.hidden_act))


def _siglip(model: Any, tokenizer: Tokenizer) -> tuple[nn.Module, TextFacts]:
    text = model.text_model
    tower = PreNormText(text, text.head, "last", tokenizer.spec.eos_id, None)
    return tower, TextFacts(False, False, "last", str(model.config.text_config.hidden_act))


def _chinese_clip(model: Any, tokenizer: Tokenizer) -> tuple[nn.Module, TextFacts]:
    tower = BertText(model.text_model, model.text_projection, "first", tokenizer.spec.pad_id)
    return tower, TextFacts(False, True, "first", str(model.config.text_config.hidden_act))


def _alt_clip(model: Any, tokenizer: Tokenizer) -> tuple[nn.Module, TextFacts]:
    text = model.text_model
    head = nn.Sequential(text.pre_LN, text.transformation, model.text_projection)
    tower = BertText(text.roberta, head, "first", tokenizer.spec.pad_id)
    return tower, TextFacts(False, True, "first", str(model.config.text_config.hidden_act))


KINDS: dict[str, Callable[[Any, Tokenizer], tuple[nn.Module, TextFacts | None]]] = {
    "clip": _clip,
    "siglip": _siglip,
    "chinese_clip": _chinese_clip,
    "altclip": _alt_clip,
}


def _licences(folder: Path) -> tuple[Licence, ...]:
    """What the head of README.md says, which is where the hub keeps the licence of a model."""
    card = folder / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace")[:4096] if card.is_file() else ""
    found = (re.search(rf"^{key}:\s*(\S+)", head, re.MULTILINE) for key in ("license_name", "license"))
    named = next((match for match in found if match), None)
    if named is None:
        return ()
    return (Licence("both towers", named[1][:80], RESTRICTED.search(named[1]) is not None),)
