"""What every test shares: how property-based tests search, and one small real data set."""

from __future__ import annotations

import os
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
def tiny_open_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an open_clip model small enough for tests: 32 pixels, 48 dimensions, random weights."""
    return save_open_clip(tmp_path_factory.mktemp("teacher") / "tiny-vit", size=32, embed_dim=48, seed=0)


def save_open_clip(folder: Path, *, size: int, embed_dim: int, seed: int, mean: float = 0.5) -> Path:
    """Write a small ViT CLIP in open_clip's folder layout, with its own input size, normalisation and weights."""
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
