"""What every test shares: how property-based tests search, and one small real data set."""

from __future__ import annotations

import os
from collections.abc import Callable
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


def save_tiny_student(folder: Path, *, seed: int, tower: str = "timm:test_efficientnet") -> Path:
    """Write a student whose towers export in seconds."""
    import numpy as np
    import torch

    from clip_edge.distill.models.checkpoint import save_student
    from clip_edge.distill.models.spec import ImageSpec, StudentSpec, TextTowerSpec, TokenizerSpec
    from clip_edge.distill.models.student import build_student
    from clip_edge.distill.models.tokenizers import train_tokenizer

    tokenizer = train_tokenizer(["a red apple", "a blue car and a dog", "一只猫", "café"] * 5, 300, 16)
    spec = StudentSpec(
        name="tiny",
        embed_dim=24,
        image=ImageSpec(tower, 32),
        text=TextTowerSpec(depth=1, width=32, heads=2, context_length=16, causal=False, pad_mask=True),
        tokenizer=TokenizerSpec("trained", tokenizer.spec.vocab_size),
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
