"""Small real data sets, made once for the folder."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from clip_edge.distill.data.generate import EmojiOptions, write_emoji
from clip_edge.distill.data.samples import Problem

SMALL = EmojiOptions(
    images=60, eval_images=20, emojis=40, unseen=8, size=64, langs=("en", "zh", "de"), seed=3, workers=1
)


@pytest.fixture(scope="session")
def emoji_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "emoji"
    write_emoji(out, SMALL)
    return out


def picture(seed: int = 0, kind: str = "PNG", size: tuple[int, int] = (20, 16)) -> bytes:
    """An encoded picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], format_: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format_) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def good(count: int, start: int = 0) -> list[tuple[str, bytes]]:
    """The members of `count` whole samples with jpg and txt."""
    members = []
    for i in range(start, start + count):
        members += [(f"{i:05d}.jpg", picture(i, "JPEG")), (f"{i:05d}.txt", f"noise number {i}".encode())]
    return members


def kinds(problems: Sequence[Problem]) -> list[tuple[str, str]]:
    return [(problem.kind, problem.key) for problem in problems]


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The helpers above, for the tests of this folder (test modules cannot import each other)."""
    return SimpleNamespace(picture=picture, tar=write_tar, good=good, kinds=kinds, options=SMALL)
