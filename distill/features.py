"""Training on a frozen image trunk: its features are computed once, kept, and read instead of pictures.

This is the "locked image" half of LiT (Zhai et al. 2022). It holds while nothing about a picture changes from one
epoch to the next: the trunk is frozen and there is no augmentation.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from clip_edge.console import SILENT, Console
from clip_edge.distill import distributed
from clip_edge.distill.data.loader import Tokenize, choose_caption, epoch_order, steps_per_epoch
from clip_edge.distill.data.samples import DataSet, Problem, Sample
from clip_edge.distill.distributed import Processes
from clip_edge.distill.models.image import memory_format
from clip_edge.distill.models.student import Student
from clip_edge.distill.run_folder import data_hash
from clip_edge.errors import DataError
from clip_edge.files import disk_errors
from clip_edge.images import open_image
from clip_edge.preprocess import Bytes, PreprocessSpec, normalize, to_pixels

BATCH_SIZE = 64
READERS = 4  # threads that decode while the trunk computes
FP16_MAX = float(torch.finfo(torch.float16).max)


@dataclass(frozen=True)
class FeatureBatch:
    """One process's share of a training batch, with features where pictures would be."""

    features: Tensor  # (B, F)
    tokens: Tensor  # (B, L) int64
    indices: Tensor  # (B,) int64, positions in the data set


@dataclass(frozen=True)
class Features:
    """The features of every sample of a data set."""

    rows: Tensor  # (N, F), on the CPU
    stand_in: Tensor  # (N,) int64: the sample itself, or the next readable one where it cannot be read


def trunk_features(
    student: Student,
    dataset: DataSet,
    spec: PreprocessSpec,
    cache: Path,
    *,
    here: Processes,
    on_problem: Callable[[Problem], None],
    console: Console = SILENT,
) -> Features:
    """The features of `student`'s frozen trunk for all of `dataset`, from `cache` where they are there already.

    Each process computes its share. Files are named after weights, preprocessing and data, so a resumed run finds
    its own and nothing else.

    Raises:
        DataError: no picture can be read.
    """
    key = _key(student, dataset, spec)
    paths = [cache / f"features-{key}-{rank}-of-{here.world_size}.safetensors" for rank in range(here.world_size)]
    mine = here.share(len(dataset))
    if _read(paths[here.rank], mine.stop - mine.start) is None:
        part = _compute(student, dataset, spec, range(mine.start, mine.stop), here.device, on_problem, console)
        with disk_errors(cache):
            cache.mkdir(parents=True, exist_ok=True)
            partial = paths[here.rank].with_suffix(".partial")
            save_file(part, partial)
            partial.replace(paths[here.rank])
    distributed.barrier()
    parts = [load_file(path) for path in paths]
    readable = torch.cat([part["readable"] for part in parts])
    if not readable.any():
        raise DataError(f"no readable picture in {dataset.name}", hint="`clip-edge data check` names what is broken")
    return Features(torch.cat([part["features"] for part in parts]), _stand_ins(readable))


def feature_batches(
    features: Features,
    dataset: DataSet,
    *,
    tokenizer: Tokenize,
    batch_size: int,
    seed: int,
    here: Processes,
    start_step: int,
    langs: Sequence[str],
) -> Iterator[FeatureBatch]:
    """Endless batches: the samples and captions that `data.loader.make_batches` would give, without the pictures."""
    per_epoch, rows = steps_per_epoch(dataset, batch_size), here.share(batch_size)
    caption_of = _captions(dataset)
    tokens_of: dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
    epoch, step = divmod(start_step, per_epoch)
    while True:
        order = epoch_order(dataset, seed, epoch)
        for now in range(step, per_epoch):
            wanted = torch.from_numpy(order[now * batch_size : (now + 1) * batch_size][rows])
            indices = features.stand_in[wanted]
            texts = [
                choose_caption(caption_of(index), langs, random.Random(f"{seed}/{epoch}/{index}"))
                for index in indices.tolist()
            ]
            new = list(dict.fromkeys(text for text in texts if text not in tokens_of))
            tokens_of.update(zip(new, tokenizer(new), strict=True))
            tokens = torch.from_numpy(np.stack([tokens_of[text] for text in texts]))
            yield FeatureBatch(features.rows[indices].float(), tokens, indices)
        epoch, step = epoch + 1, 0


def _captions(dataset: DataSet) -> Callable[[int], Sample]:
    """Samples without their pictures, read once: about a kilobyte each, a fraction of their features."""
    known: dict[int, Sample] = {}

    def read(index: int) -> Sample:
        if index not in known:
            known[index] = replace(dataset.sample(index), image=b"", mask=None)
        return known[index]

    return read


def _compute(
    student: Student,
    dataset: DataSet,
    spec: PreprocessSpec,
    indices: range,
    device: torch.device,
    on_problem: Callable[[Problem], None],
    console: Console,
) -> dict[str, Tensor]:
    """{"features": (n, F) in fp16 where that can hold them, "readable": (n,) bool}."""
    rows, readable = [], []
    layout = memory_format(student.image.trunk, device)
    with (
        ThreadPoolExecutor(READERS) as pool,
        console.progress("features of the frozen trunk", len(indices), "pictures") as meter,
    ):
        for batch in _read_ahead(pool, dataset, spec, indices):
            blank = np.zeros((spec.size, spec.size, 3), np.uint8)
            pixels = np.stack([item if isinstance(item, np.ndarray) else blank for item in batch])
            images = torch.from_numpy(normalize(pixels, spec)).to(device, memory_format=layout)
            with torch.inference_mode():
                rows.append(student.image_features(images).float().cpu())
            readable += [isinstance(item, np.ndarray) for item in batch]
            for item in batch:
                if isinstance(item, Problem):
                    on_problem(item)
            meter.advance(len(batch))
    features = torch.cat(rows)
    fits = bool(features.abs().max() <= FP16_MAX)
    return {"features": features.half() if fits else features, "readable": torch.tensor(readable)}


def _read_ahead(
    pool: ThreadPoolExecutor, dataset: DataSet, spec: PreprocessSpec, indices: range
) -> Iterator[list[Bytes | Problem]]:
    """The pictures in order, in batches; the next batch is decoded while the caller works on this one."""

    def read(index: int) -> Bytes | Problem:
        try:
            return to_pixels(open_image(dataset.sample(index).image), spec)
        except DataError as problem:
            return Problem("unreadable", dataset.keys[index], dataset.where(index), problem.what)

    waiting = iter(indices)
    following = [pool.submit(read, index) for index in islice(waiting, BATCH_SIZE)]
    while following:
        current, following = following, [pool.submit(read, index) for index in islice(waiting, BATCH_SIZE)]
        yield [future.result() for future in current]


def _stand_ins(readable: Tensor) -> Tensor:
    """(N,) bool -> (N,) int64: each index, or the next readable one, beginning again at the end."""
    good = torch.nonzero(readable).flatten()
    place = torch.searchsorted(good, torch.arange(len(readable)))
    return good[place % len(good)]


def _key(student: Student, dataset: DataSet, spec: PreprocessSpec) -> str:
    digest = hashlib.sha256(f"{spec} {data_hash(dataset)}".encode())
    for name, value in student.image.trunk.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _read(path: Path, rows: int) -> dict[str, Tensor] | None:
    """A finished file of `rows` rows, or None."""
    try:
        found = load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None
    return found if {len(value) for value in found.values()} == {rows} else None
