"""The shards of a data set, and the proof that a sidecar and a shard belong together."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_edge.distill.data.samples import DataSet
from clip_edge.distill.reinforce.sidecar import REMAKE, Sidecar
from clip_edge.errors import ArtifactError, DataError

PART = 1000  # pictures per sidecar of a data set that has no shards
CHECKED = 3  # pictures per sidecar whose hash is compared when the sidecar is opened


@dataclass(frozen=True)
class Shard:
    """The samples `first` .. `last` - 1 of a data set, which have one sidecar."""

    name: str
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


def shards_of(dataset: DataSet) -> tuple[Shard, ...]:
    """The tars of a data set, or parts of 1,000 samples when it has none."""
    if dataset.texts:
        starts = range(0, len(dataset), PART)
        return tuple(Shard(f"part-{i:06d}", start, min(start + PART, len(dataset))) for i, start in enumerate(starts))
    numbers = dataset.shard_of_all()
    borders = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(dataset)]
    found = [Shard(Path(dataset.where(first)).stem, first, last) for first, last in itertools.pairwise(borders)]
    names = [shard.name for shard in found]
    if len(set(names)) < len(names):
        raise DataError("two shards have the same name", where=dataset.name, hint="rename one of them")
    return tuple(found)


def damaged(path: Path, expected: str, found: str) -> ArtifactError:
    """The error for a sidecar whose bytes are not those that were written."""
    return ArtifactError(
        f"the sidecar is damaged: expected SHA-256 {expected[:16]}..., found {found[:16]}...",
        where=path,
        hint=REMAKE,
    )


def check_shard(sidecar: Sidecar, shard: Shard, dataset: DataSet, *, pictures: int = CHECKED) -> None:
    """Raise ArtifactError unless the sidecar describes this shard: all keys, and the hashes of some pictures."""
    hint = (
        f"put the shard back that this was made from, or delete {sidecar.path.name} and run `clip-edge reinforce` again"
    )
    if sidecar.header.shard != shard.name:
        raise ArtifactError(
            f"the sidecar belongs to the shard {sidecar.header.shard}, not to {shard.name}",
            where=sidecar.path,
            hint=hint,
        )
    if sidecar.header.samples != len(shard):
        raise ArtifactError(
            f"the sidecar describes a shard of {sidecar.header.samples} samples; {shard.name} has {len(shard)}",
            where=sidecar.path,
            hint=hint,
        )
    places = shard.first + sidecar.positions.astype(np.int64)
    for key, place in zip(sidecar.keys, places.tolist(), strict=True):
        known = dataset.keys[place] if shard.first <= place < shard.last else "(nothing)"
        if key != known:
            raise ArtifactError(
                f"the sidecar describes other pictures: expected `{known}`, found `{key}`",
                where=sidecar.path,
                hint=hint,
            )
    for row in sorted({i * len(sidecar) // pictures for i in range(pictures)} if len(sidecar) else ()):
        check_picture(sidecar, row, dataset.sample(int(places[row])).image)


def check_picture(sidecar: Sidecar, row: int, image: bytes) -> None:
    """Raise ArtifactError unless row `row` was made from exactly this encoded picture."""
    expected, _ = sidecar.picture(row)
    if hashlib.sha256(image).digest() != expected:
        raise ArtifactError(
            f"the picture `{sidecar.keys[row]}` is not the one that was described: its bytes differ",
            where=sidecar.path,
            hint=f"use the pictures that this was made from, or delete {sidecar.path.name} and "
            "run `clip-edge reinforce` again",
        )
