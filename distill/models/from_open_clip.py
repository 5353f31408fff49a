"""Models of open_clip: by name with weights or, when that is asked for, without; or a folder in its layout."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clip_edge.distill.models.foreign_tokenizers import from_transformers, stand_in
from clip_edge.distill.models.pretrained import FirstOutput, Pooling, Pretrained, TextFacts
from clip_edge.distill.models.spec import Licence
from clip_edge.distill.models.text_towers import BertText, OpenClipText, T5Text
from clip_edge.distill.models.tokenizers import CLIP_EOS, CLIP_VOCAB_SIZE, clip_tokenizer
from clip_edge.distill.models.weights import read_state
from clip_edge.errors import CheckpointError, ConfigError, UnavailableError, UsageError, unknown_name
from clip_edge.files import read_json
from clip_edge.preprocess import PreprocessSpec
from clip_edge.schema import build
from clip_edge.tokenizer import Tokenizer

RANDOM = "random"
APPLE_RESEARCH = "apple-amlr"  # MobileCLIP and DFN weights: research only, and so is what is distilled from them
RESTRICTED = {"datacompdr": APPLE_RESEARCH, "dfn": APPLE_RESEARCH, "metaclip": "cc-by-nc-4.0"}  # by how a tag begins
BERTS = ("bert", "roberta", "xlm-roberta")
POOLERS: dict[str, Pooling] = {
    "MeanPooler": "mean",
    "ClsPooler": "first",
    "ClsLastHiddenStatePooler": "first",
}
# Text towers that open_clip would look up on the hub, for models with random weights. Sizes are those of the papers'
# own base models (Conneau et al. 2020, Liu et al. 2019, Xue et al. 2021).
KNOWN_TEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "xlm-roberta-base": ("XLMRobertaConfig", {"vocab_size": 250002, "max_position_embeddings": 514}),
    "roberta-base": ("RobertaConfig", {"vocab_size": 50265, "max_position_embeddings": 514}),
    "google/mt5-base": (
        "MT5Config",
        {"vocab_size": 250112, "d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    ),
}


def load(rest: str) -> Pretrained:
    """`NAME:TAG`, `NAME:FILE`, `NAME:random` or a folder with open_clip_config.json.

    Raises:
        UsageError: no such model, no weights named, or weights of another activation.
        CheckpointError: weights, configuration and tokenizer do not belong together.
        UnavailableError: something would have to be downloaded and cannot be.
    """
    import open_clip

    folder = Path(rest)
    if (folder / "open_clip_config.json").is_file():
        name, weights, identifier = folder.resolve().name, None, f"local-dir:{rest}"
        config = read_json(folder / "open_clip_config.json", error=CheckpointError)
        model_config = config.get("model_cfg", config)
    else:
        name, weights = _name_and_weights(rest, open_clip)
        identifier, config = name, open_clip.get_model_config(name)
        model_config = config
        _same_activation(open_clip, name, weights, bool(config.get("quick_gelu", False)))
    random = weights == RANDOM
    model: Any = _random_model(open_clip, name) if random else _create(open_clip, identifier, weights)
    tokenizer = _tokenizer(open_clip, identifier, model, model_config["text_cfg"], random=random)
    text, facts = _text_tower(model, model_config, tokenizer)
    return Pretrained(
        whole=model,
        image=FirstOutput(model.visual) if facts is None else model.visual,
        text=text,
        tokenizer=tokenizer,
        preprocess=_preprocess(open_clip.get_model_preprocess_cfg(model), name),
        facts=facts,
        architecture=config,
        name=name,
        licences=() if random else _licences(name, weights or ""),
        random=random,
    )


def _name_and_weights(rest: str, open_clip: Any) -> tuple[str, str]:
    """NAME and TAG-or-file of `NAME:TAG`."""
    name, _, weights = rest.partition(":")
    models = open_clip.list_models()
    if name not in models:
        raise unknown_name("open_clip model", name, models)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not weights:
        choices = f"known tags: {', '.join(tags)}" if tags else "open_clip has none for it; name a file"
        raise UsageError(
            f"`open_clip:{name}` names no weights",
            hint=f"write open_clip:{name}:TAG or :FILE; {choices}; `:{RANDOM}` measures speed and size only",
        )
    if weights != RANDOM and not Path(weights).is_file() and weights not in tags:
        raise unknown_name(f"tag or file for {name}", weights, tags)
    return name, weights


def _same_activation(open_clip: Any, name: str, weights: str, quick: bool) -> None:
    """Weights of a known tag say whether they were trained with QuickGELU; nothing else would ever show it."""
    tag = open_clip.get_pretrained_cfg(name, weights)
    if tag and bool(tag.get("quick_gelu", False)) != quick:
        other = name.removesuffix("-quickgelu") if quick else f"{name}-quickgelu"
        raise UsageError(
            f"`{weights}` was trained with another activation than {name}: its embeddings would be wrong",
            hint=f"name the variant of the model that fits: open_clip:{other}:{weights}",
        )


def _random_model(open_clip: Any, name: str) -> nn.Module:
    config = open_clip.get_model_config(name)["text_cfg"]
    hub_name = config.get("hf_model_name")
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        known = {}
        if hub_name in KNOWN_TEXT:
            import transformers

            kind, sizes = KNOWN_TEXT[hub_name]
            getattr(transformers, kind)(**sizes).save_pretrained(folder)
            known = {"text_cfg": {**config, "hf_model_name": folder, "hf_model_pretrained": False}}
        try:
            with _silence():
                model: nn.Module = open_clip.create_model(name, load_weights=False, pretrained_text=False, **known)
        except Exception as problem:  # open_clip and the loaders below it raise anything
            raise UnavailableError(
                f"the text tower of {name} is described on the hub, which cannot be reached: {problem}",
                hint=f"once, where there is a network: huggingface-cli download {hub_name} config.json",
            ) from problem
    return model


@contextmanager
def _silence() -> Iterator[None]:
    """open_clip warns on the root logger that nothing is loaded, which is what was asked for."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _create(open_clip: Any, identifier: str, weights: str | None) -> nn.Module:
    where = weights or identifier.removeprefix("local-dir:")
    try:
        model: nn.Module = open_clip.create_model(
            identifier, pretrained=weights, require_pretrained=True, weights_only=True
        )
    except Exception as problem:  # open_clip and the loaders below it raise anything
        if weights is not None and not Path(weights).is_file():
            raise UnavailableError(
                f"the weights `{weights}` of {identifier} cannot be downloaded: {_short(problem)}",
                hint=f"download them elsewhere and name the file: open_clip:{identifier}:FILE",
            ) from problem
        if "connect" in str(problem) and isinstance(problem, OSError):
            raise UnavailableError(
                f"the text tower of {identifier} is described on the hub, which cannot be reached: {_short(problem)}",
                hint="once, where there is a network: huggingface-cli download NAME config.json",
            ) from problem
        raise CheckpointError(f"open_clip cannot load these weights: {_short(problem)}", where=where) from problem
    if weights is not None and Path(weights).is_file():
        _same_grid(model, Path(weights))
    return model


def _same_grid(model: nn.Module, file: Path) -> None:
    """Refuse weights of another picture size or context: open_clip would resize their positions without a word."""
    wanted = model.state_dict()
    for name, found in read_state(file).items():
        here = wanted.get(name, wanted.get(f"text.{name}"))
        if name.endswith("positional_embedding") and here is not None and here.shape != found.shape:
            raise CheckpointError(
                f"expected `{name}` of {tuple(here.shape)}; found {tuple(found.shape)}: the weights belong to another "
                "picture size or context length",
                where=file,
                hint="name the model that they were trained as",
            )


def _short(problem: BaseException) -> str:
    """The beginning of a message: a state that does not fit lists hundreds of names."""
    text = str(problem).strip()
    return text if len(text) <= 600 else f"{text[:600]} …"


def _tokenizer(open_clip: Any, identifier: str, model: Any, config: dict[str, Any], *, random: bool) -> Tokenizer:
    settings = config.get("tokenizer_kwargs", {})
    try:
        theirs = open_clip.get_tokenizer(identifier)
    except Exception as problem:  # the hub's client and transformers raise anything
        if random:
            pad_id = getattr(getattr(getattr(model, "text", None), "config", None), "pad_token_id", 0)
            return stand_in(config.get("context_length", 77), _rows(model), pad_id)
        raise UnavailableError(
            f"the tokenizer of {identifier} cannot be downloaded or read: {_short(problem)}",
            hint="once, where there is a network: huggingface-cli download "
            f"{config.get('hf_tokenizer_name', 'NAME')}; or install what the message names",
        ) from problem
    if getattr(theirs, "reduction_fn", None) or getattr(theirs, "tokenizer_mode", ""):
        raise ConfigError(f"{identifier} cuts or frames long sentences in a way of its own, which is not supported")
    if not hasattr(theirs, "tokenizer"):
        if settings.get("clean", "lower") != "lower" or _rows(model) != CLIP_VOCAB_SIZE:
            raise CheckpointError(
                f"expected CLIP's vocabulary of {CLIP_VOCAB_SIZE}; the text tower has {_rows(model)} rows",
                where=identifier,
                hint="name the tokenizer in the model's configuration: text_cfg.hf_tokenizer_name",
            )
        return clip_tokenizer(theirs.context_length)
    return from_transformers(
        theirs.tokenizer,
        context_length=theirs.context_length,
        vocab_size=_rows(model),
        clean=settings.get("clean", "whitespace"),
        eos_is_pad=bool(settings.get("strip_sep_token", False)),
    )


def _rows(model: Any) -> int:
    """Rows of the table of token embeddings."""
    text = getattr(model, "text", model)
    table = text.transformer.get_input_embeddings() if hasattr(text, "pooler") else text.token_embedding
    return int(table.num_embeddings)


def _text_tower(model: Any, config: dict[str, Any], tokenizer: Tokenizer) -> tuple[nn.Module, TextFacts | None]:
    text, settings = getattr(model, "text", model), config["text_cfg"]
    if hasattr(model, "text_decoder") or getattr(text, "cls_emb", None) is not None:
        return FirstOutput(text), None
    if hasattr(text, "pooler"):
        return _hugging_face_text(text, tokenizer)
    kind = getattr(text, "text_pool_type", None) or text.pool_type
    highest = tokenizer.spec.eos_id == CLIP_EOS == CLIP_VOCAB_SIZE - 1  # then the largest id of a row is its EOS
    if kind == "eos":
        expected = getattr(text, "text_eos_id", None) or text.eos_id
        if expected != tokenizer.spec.eos_id:
            raise CheckpointError(f"the text tower pools at id {expected}; sentences end with {tokenizer.spec.eos_id}")
    elif kind not in ("first", "last") and not (kind == "argmax" and highest):
        raise ConfigError(f"the text tower pools by `{kind}`, which is not supported with its tokenizer")
    pooling: Pooling = kind if kind in ("first", "last") else "eos"
    quick, tanh = config.get("quick_gelu", False), (settings.get("act_kwargs") or {}).get("approximate") == "tanh"
    activation = "quick_gelu" if quick else "gelu_tanh" if tanh else "gelu"
    tower = OpenClipText(text, tokenizer.spec.context_length, pooling, tokenizer.spec.eos_id)
    return tower, TextFacts(tower.mask is not None, False, pooling, activation)


def _hugging_face_text(text: Any, tokenizer: Tokenizer) -> tuple[nn.Module, TextFacts]:
    config, pooling = text.config, POOLERS.get(type(text.pooler).__name__)
    pad_id, kind = config.pad_token_id, config.model_type
    if pad_id != tokenizer.spec.pad_id:
        raise CheckpointError(f"the text tower hides id {pad_id}; the tokenizer pads with {tokenizer.spec.pad_id}")
    if pooling is None or (kind not in BERTS and (kind, pooling) not in (("mt5", "mean"), ("t5", "mean"))):
        raise ConfigError(f"text towers of type `{kind}` with {type(text.pooler).__name__} are not supported")
    if kind not in BERTS:
        facts = TextFacts(False, True, pooling, str(config.feed_forward_proj))
        return T5Text(text.transformer, text.proj, pad_id), facts
    pooler = getattr(text.transformer, "pooler", None) if text.pooler.__class__.__name__ == "ClsPooler" else None
    head = text.proj if pooler is None else nn.Sequential(pooler.dense, pooler.activation, text.proj)
    return BertText(text.transformer, head, pooling, pad_id), TextFacts(False, True, pooling, str(config.hidden_act))


def _preprocess(config: dict[str, Any], name: str) -> PreprocessSpec:
    size = config["size"]
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ConfigError(f"{name} takes pictures of {size}: only square ones are supported")
    picked = {key: config[key] for key in ("interpolation", "mean", "std")} | {"resize": config["resize_mode"]}
    if picked["interpolation"] == "random":  # a setting of training; open_clip itself measures with bicubic
        picked["interpolation"] = "bicubic"
    return build(PreprocessSpec, {"size": sides.pop(), **picked}, where=name)


def _licences(name: str, weights: str) -> tuple[Licence, ...]:
    names = [licence for start, licence in RESTRICTED.items() if weights.startswith(start)]
    names += [APPLE_RESEARCH] if name.startswith("MobileCLIP") and not names else []
    return tuple(Licence("both towers", licence, research_only=True) for licence in names)
