"""What every test shares: how property-based tests search, and one small real data set."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no failure, so no deadline. CI searches the same examples every time; a person's runs explore.
settings.register_profile("here", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session")
def tiny_emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real scenes for tests: 64 to train on, 16 in every other split, 48 pixels, 24 emoji (4 of them unseen)."""
    from clip_edge.distill.data.generate import EmojiOptions, write_emoji

    out = tmp_path_factory.mktemp("data") / "emoji"
    write_emoji(out, EmojiOptions(images=64, eval_images=16, emojis=24, unseen=4, size=48, workers=1))
    return out


@pytest.fixture(scope="session")
def tiny_open_clip(tmp_path_factory: pytest.TempPathFactory, save_open_clip: Callable[..., Path]) -> Path:
    """A folder of an open_clip model small enough for tests: 32 pixels, 48 dimensions, random weights."""
    return save_open_clip(tmp_path_factory.mktemp("teacher") / "tiny-vit", size=32, embed_dim=48, seed=0)


@pytest.fixture(scope="session")
def save_open_clip() -> Callable[..., Path]:
    """Writes a small ViT CLIP in open_clip's folder layout: (folder, *, size, embed_dim, seed, mean) -> folder."""
    return _save_open_clip


def _save_open_clip(folder: Path, *, size: int, embed_dim: int, seed: int, mean: float = 0.5) -> Path:
    import json

    import open_clip
    import torch
    from safetensors.torch import save_file

    config = {
        "embed_dim": embed_dim,
        "vision_cfg": {"image_size": size, "layers": 2, "width": 64, "head_width": 32, "patch_size": size // 4},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [mean] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    (folder / "open_clip_config.json").write_text(text)
    return folder


@pytest.fixture(scope="session")
def tiny_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student folder with random weights: 32 pixels, 24 dimensions, its own tokenizer, two example pictures."""
    return save_tiny_student(tmp_path_factory.mktemp("student") / "tiny", seed=0)


def save_tiny_student(folder: Path, *, seed: int, tower: str = "timm:test_efficientnet", merged: bool = False) -> Path:
    """Write a student whose towers export in seconds; `merged` ones have a CLIP head and a mask head on one map."""
    import numpy as np
    import torch

    from clip_edge.distill.models.checkpoint import save_student
    from clip_edge.distill.models.spec import (
        HeadSpec,
        ImageSpec,
        MaskSpec,
        StudentSpec,
        TextTowerSpec,
        TokenizerSpec,
    )
    from clip_edge.distill.models.student import build_student
    from clip_edge.distill.models.tokenizers import train_tokenizer

    head = HeadSpec(levels=(2, 3, 4), width=16, depth=1, heads=2) if merged else None
    tokenizer = train_tokenizer(["a red apple", "a blue car and a dog", "一只猫", "café"] * 5, 300, 16)
    spec = StudentSpec(
        name="tiny",
        embed_dim=24,
        image=ImageSpec(tower, 32, head=head, hidden=32),
        text=TextTowerSpec(depth=1, width=32, heads=2, context_length=16, causal=False, pad_mask=True),
        tokenizer=TokenizerSpec("trained", tokenizer.spec.vocab_size),
        masks=MaskSpec(width=16, depth=1, heads=2) if merged else None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = build_student(spec, tokenizer)
    random = np.random.default_rng(seed)
    examples = {f"image.{i:03d}": random.integers(0, 256, (40, 30 + i, 3), dtype=np.uint8) for i in range(2)}
    examples["texts"] = np.frombuffer('["a red apple", "一只猫"]'.encode(), dtype=np.uint8)
    folder.mkdir(parents=True)
    save_student(folder, student, tokenizer, recipe_toml="", metrics=None, provenance={"seed": seed}, examples=examples)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle exported from `tiny_student`. Copy it before changing it."""
    from clip_edge.export.exporter import Request, export

    out = tmp_path_factory.mktemp("bundle") / "tiny"
    export(tiny_student, [Request("onnx")], out)
    return out


@pytest.fixture(scope="session")
def tiny_merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_student`, with a CLIP head and a mask head on a map of 4 × 4."""
    return save_tiny_student(tmp_path_factory.mktemp("student") / "merged", seed=0, merged=True)


@pytest.fixture(scope="session")
def tiny_sure(tiny_merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_merged` with masks that have margins, as trained ones do: random logits lie around 0."""
    import torch

    from clip_edge.distill.models.checkpoint import load_student, save_student

    loaded = load_student(tiny_merged)
    masks = loaded.student.masks
    assert masks is not None
    with torch.no_grad():
        masks.upscale[-2].bias += 2  # what kernels are multiplied with is above 0
        for kernel in masks.kernels:
            kernel[-1].bias += 1
    folder = tmp_path_factory.mktemp("student") / "sure"
    folder.mkdir()
    save_student(folder, loaded.student, loaded.tokenizer, recipe_toml="", metrics=None, provenance={})
    return folder


@pytest.fixture(scope="session")
def tiny_segment_bundle(tiny_merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle exported from `tiny_merged`: both towers, encoder, CLIP head and mask decoder."""
    from clip_edge.export.exporter import Request, export

    out = tmp_path_factory.mktemp("bundle") / "merged"
    export(tiny_merged, [Request("onnx")], out)
    return out


@pytest.fixture(scope="session")
def foreign_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A small model of another library in its own folder layout, random weights and trained tokenizer included."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp("foreign") / kind
            folder.mkdir()
            family, _, name = kind.partition(":")
            (_save_open_clip_kind if family == "open_clip" else _save_hugging_face)(folder, name)
            made[kind] = folder
        return made[kind]

    return get


def _save_open_clip_kind(folder: Path, name: str) -> None:
    """open_clip's folder layout for its families, OpenAI's as `quickgelu` and the others by their names.

    `mobileclip` has a tower that exports in no time, `mobileclip-s` and `mobileclip2-s3` have those of the family.
    """
    import json

    import open_clip
    import torch
    import transformers
    from safetensors.torch import save_file

    sizes = {"width": 32, "heads": 2, "layers": 2, "context_length": 24, "vocab_size": 49408}
    vision: dict[str, object] = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
    trunk: dict[str, object] = {
        "image_size": 32,
        "timm_model_name": "test_vit",
        "timm_pool": "avg",
        "timm_proj": "linear",
    }
    config: dict[str, object] = {"embed_dim": 48, "vision_cfg": vision, "text_cfg": sizes}
    preprocess = {
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    if name in ("mobileclip", "mobileclip-s", "mobileclip2-s3"):
        towers = {"mobileclip": "test_efficientnet", "mobileclip-s": "fastvit_t8", "mobileclip2-s3": _five_stages()}
        trunk |= {"timm_model_name": towers[name], "timm_proj": "linear" if name == "mobileclip" else None}
        config |= {"vision_cfg": trunk, "text_cfg": {**sizes, "no_causal_mask": True}, "custom_text": True}
        if name != "mobileclip2-s3":
            preprocess |= {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear"}
    elif name == "tinyclip":  # fewer and narrower layers than heads of 64 would give, three of them in the text tower
        config |= {"vision_cfg": {**vision, "layers": 3, "width": 48, "head_width": 16}, "quick_gelu": True}
        config |= {"text_cfg": {**sizes, "width": 24, "heads": 3, "layers": 3}}
    elif name == "quickgelu":
        config |= {"quick_gelu": True}
    elif name == "siglip":
        text = {**sizes, "vocab_size": 300, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
        text |= {
            "hf_tokenizer_name": "here",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "norm_kwargs": {"eps": 1e-6},
        }
        config |= {"init_logit_bias": -10, "custom_text": True, "text_cfg": text}
        preprocess |= {"resize_mode": "squash"}
        _train_tokenizer("t5").save_pretrained(folder)
    else:
        wide = {"vocab_size": 300, "pad_token_id": 1}
        roberta = transformers.XLMRobertaConfig(
            **wide,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=40,
        )
        mt5 = transformers.MT5Config(
            vocab_size=300, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, pad_token_id=0
        )
        text_config, kind = (mt5, "t5-pad0") if name == "mt5" else (roberta, "xlmr")
        text_config.save_pretrained(folder)
        text = {"hf_model_name": str(folder), "hf_tokenizer_name": "here", "hf_proj_type": "mlp", "context_length": 24}
        config |= {"text_cfg": {**text, "hf_pooler_type": "mean_pooler"}}
        _train_tokenizer(kind).save_pretrained(folder)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with _no_talk():
            model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
        for value in model.parameters():  # rows that differ visibly, biases and tables included
            value.data.add_(0.05 * torch.randn_like(value))
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )


def _five_stages() -> str:
    """timm's name for a tower of MobileCLIP2-S3's make at a size for tests: five stages, norms over channels."""
    from functools import partial

    from timm.layers import LayerNorm2d
    from timm.models import FastVit, is_model, register_model
    from timm.models.fastvit import RepConditionalPosEnc

    def fastvit_five_stages(pretrained: bool = False, **given: object) -> FastVit:
        encoded = (None, None, None, *[partial(RepConditionalPosEnc, spatial_shape=(7, 7))] * 2)
        mixers = ("repmixer",) * 3 + ("attention",) * 2
        sizes = {"layers": (1, 1, 1, 1, 1), "embed_dims": (16, 16, 32, 32, 64), "mlp_ratios": (2,) * 5}
        sizes |= {"downsamples": (False, True, True, True, True), "se_downsamples": (False,) * 5}
        norms = {"norm_layer": partial(LayerNorm2d, eps=1e-5), "lkc_use_act": True, "stem_use_scale_branch": False}
        unused = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
        rest = {name: value for name, value in given.items() if name not in unused}
        return FastVit(**sizes, **norms, pos_embs=encoded, token_mixers=mixers, **rest)

    if not is_model(fastvit_five_stages.__name__):
        fastvit_five_stages.__module__ = "timm.models.fastvit"
        register_model(fastvit_five_stages)
    return fastvit_five_stages.__name__


@contextlib.contextmanager
def _no_talk() -> Iterator[None]:
    """open_clip warns on the root logger when it loads nothing."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _save_hugging_face(folder: Path, name: str) -> None:
    """`save_pretrained`'s layout of `clip`, `siglip`, `chinese_clip` and `altclip`."""
    import torch
    import transformers

    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    text = {**tower, "vocab_size": 300, "max_position_embeddings": 24}
    kinds = {
        "clip": ("CLIP", "clip", {**text, "bos_token_id": 1, "eos_token_id": 3, "hidden_act": "quick_gelu"}),
        "siglip": ("Siglip", "t5", {**text, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 1}),
        "chinese_clip": ("ChineseCLIP", "bert", {**text, "pad_token_id": 0}),
        "altclip": ("AltCLIP", "xlmr", {**text, "max_position_embeddings": 26, "pad_token_id": 1, "project_dim": 40}),
    }
    class_name, tokenizer, text_config = kinds[name]
    config_class, model_class = (getattr(transformers, f"{class_name}{part}") for part in ("Config", "Model"))
    more = {} if name == "siglip" else {"projection_dim": 40}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config_class(text_config=text_config, vision_config=vision, **more))
        for value in model.parameters():
            value.data.add_(0.05 * torch.randn_like(value))
    model.save_pretrained(folder)
    _train_tokenizer(tokenizer).save_pretrained(folder)
    square = name in ("siglip", "chinese_clip")  # as their authors' own files have it
    size = {"height": 32, "width": 32} if square else {"shortest_edge": 32}
    processor = getattr(
        transformers,
        {"siglip": "SiglipImageProcessor", "chinese_clip": "ChineseCLIPImageProcessor"}.get(name, "CLIPImageProcessor"),
    )
    crop = {"do_center_crop": False} if square else {"crop_size": {"height": 32, "width": 32}}
    processor(size=size, **crop, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]).save_pretrained(folder)


def _train_tokenizer(kind: str):  # type: ignore[no-untyped-def]
    """A real tokenizer of each make, trained on a few sentences: 300 ids at most."""
    import tokenizers
    import transformers
    from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

    texts = [
        "a photo of a cat",
        "two dogs and three cars",
        "ein Apfel und Äpfel",
        "一只红色的猫",
        "a b c d e f g h i j",
    ] * 8
    frames = {  # special words in the order of their ids, what frames a sentence, the padding word
        "clip": (["<pad>", "<s>", "<unk>", "</s>"], ["<s>"], "</s>", "</s>"),
        "t5": (["<pad>", "</s>", "<unk>"], [], "</s>", "</s>"),
        "t5-pad0": (["<pad>", "</s>", "<unk>"], [], "</s>", "<pad>"),
        "xlmr": (["<s>", "<pad>", "</s>", "<unk>"], ["<s>"], "</s>", "<pad>"),
        "bert": (["[PAD]", "[UNK]", "[CLS]", "[SEP]"], ["[CLS]"], "[SEP]", "[PAD]"),
    }
    special, begin, end, pad = frames[kind]
    unknown = "[UNK]" if kind == "bert" else "<unk>"
    if kind == "bert":
        encoder = tokenizers.Tokenizer(models.WordPiece(unk_token=unknown))
        encoder.normalizer, encoder.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    elif kind == "clip":
        encoder = tokenizers.Tokenizer(models.BPE(unk_token=unknown))
        encoder.normalizer, encoder.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        encoder = tokenizers.Tokenizer(models.Unigram())
        encoder.normalizer, encoder.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=200, special_tokens=special, unk_token=unknown, show_progress=False
        )
    encoder.train_from_iterator(texts, trainer)
    ids = [(word, special.index(word)) for word in [*begin, end]]
    encoder.post_processor = processors.TemplateProcessing(single=" ".join([*begin, "$A", end]), special_tokens=ids)
    named = {"bos_token": begin[0]} if begin else {}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=encoder, **named, eos_token=end, pad_token=pad, unk_token=unknown, model_max_length=24
    )


@pytest.fixture(scope="session")
def tiny_calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 pictures with sentences of words that the tokenizer of `tiny_student` knows, as a CSV file."""
    import numpy as np
    from PIL import Image

    folder, random = tmp_path_factory.mktemp("calibration"), np.random.default_rng(0)
    words = ("a red apple", "a blue car and a dog", "一只猫", "café")
    lines = ["filepath,title"]
    for i in range(48):
        Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{words[i % 4]} {words[i // 4 % 4]}")
    (folder / "data.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "data.csv"


@pytest.fixture(scope="session")
def tiny_trt_bundle(tiny_student: Path, tiny_calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for TensorRT and TensorRT-RTX in three precisions, with engines for sm89. Copy it before changing it."""
    pytest.importorskip("tensorrt_rtx_bindings")
    from clip_edge.export.exporter import Request, export

    requests = [Request(target, precision) for target in ("trt", "trt-rtx") for precision in ("fp32", "fp16", "int8")]
    out = tmp_path_factory.mktemp("bundle") / "tiny-trt"
    export(tiny_student, requests, out, calibration=tiny_calibration, capabilities=["sm89"])
    return out
