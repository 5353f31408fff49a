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
