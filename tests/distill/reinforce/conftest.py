"""Two small teachers of different size and normalisation, and a data set of three shards with one broken picture."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip_edge.distill.reinforce.engine import Options, Work, prepare, reinforce

SHARDS, PER_SHARD = 3, 8
BROKEN = "000010"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def teachers(tiny_open_clip: Path, tmp_path_factory: pytest.TempPathFactory, save_open_clip: Callable) -> list[str]:
    other = save_open_clip(tmp_path_factory.mktemp("teacher") / "other", size=48, embed_dim=40, seed=7, mean=0.3)
    return [f"open_clip:{tiny_open_clip}", f"open_clip:{other}"]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA/train/shard-00000{0,1,2}.tar of eight pictures each; number 10 is cut off."""
    folder = tmp_path_factory.mktemp("data") / "web" / "train"
    folder.mkdir(parents=True)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"shard-{shard:06d}.tar", "w") as tar:
            for i in range(shard * PER_SHARD, (shard + 1) * PER_SHARD):
                picture = jpeg(i)
                members = {"jpg": picture[:200] if f"{i:06d}" == BROKEN else picture, "txt": f"noise {i}".encode()}
                for extension, content in members.items():
                    info = tarfile.TarInfo(f"{i:06d}.{extension}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return folder.parent


@pytest.fixture(scope="session")
def captions_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("captions") / "captions.jsonl"
    lines = [{"key": f"{i:06d}", "captions": [f"synthetic {i} {n}" for n in range(3)]} for i in range(24)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture(scope="session")
def options(shards: Path, teachers: list[str], captions_file: Path) -> Options:
    return Options(
        data=shards,
        teachers=tuple(teachers),
        augmentations=3,
        captioner=f"file:{captions_file}",
        batch_size=6,
        device="cpu",
    )


@pytest.fixture(scope="session")
def made(options: Options, tmp_path_factory: pytest.TempPathFactory) -> tuple[Work, Path]:
    """A finished folder; tests that damage it take a copy."""
    out = tmp_path_factory.mktemp("made") / "out"
    work = prepare(with_out(options, out))
    reinforce(work)
    return work, out


@pytest.fixture
def copy(made: tuple[Work, Path], tmp_path: Path) -> Path:
    """OUT of a finished folder that may be damaged."""
    shutil.copytree(made[1], tmp_path / "out")
    return tmp_path / "out"


def with_out(options: Options, out: Path, **changes: object) -> Options:
    import dataclasses

    return dataclasses.replace(options, out=out, **changes)


def jpeg(seed: int) -> bytes:
    """A soft picture of its own size."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    size = int(rng.integers(30, 90)), int(rng.integers(30, 90))
    out = io.BytesIO()
    Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=92)
    return out.getvalue()
