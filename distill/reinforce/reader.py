"""Reinforced data as training reads it: a data set, and beside every sample what the teachers know about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from clip_edge.distill.data.samples import DataSet, Sample
from clip_edge.distill.reinforce.augment import Params
from clip_edge.distill.reinforce.knowledge import true_captions
from clip_edge.distill.reinforce.manifest import (
    NAME,
    FileRecord,
    Manifest,
    find_folder,
    read_manifest,
    refuse_other_versions,
)
from clip_edge.distill.reinforce.shards import check_picture, check_shard, damaged, shards_of
from clip_edge.distill.reinforce.sidecar import REMAKE, Caption, Sidecar, text_hash
from clip_edge.distill.teacher import TeacherInfo
from clip_edge.errors import ArtifactError
from clip_edge.files import sha256_file
from clip_edge.numerics import Ints


class Reinforced:
    """Stored knowledge by sample number of the data set. Cheap to pickle; safe to read from many processes."""

    def __init__(self, folder: Path, manifest: Manifest, sidecars: tuple[Sidecar, ...], places: Ints) -> None:
        self.folder, self.manifest = folder, manifest
        self._sidecars = sidecars
        self._places = places  # (samples, 2): sidecar and row, -1 where a picture could not be read

    @property
    def teachers(self) -> tuple[TeacherInfo, ...]:
        """Who gave the embeddings, with their logit scales, in the order of the vectors."""
        return self.manifest.job.teachers

    @property
    def augmentations(self) -> int:
        """How many augmentations every picture has."""
        return self.manifest.job.augmentations

    @property
    def usable(self) -> Ints:
        """(M,) the samples that have knowledge; the others have no readable picture and stay out of training."""
        return np.flatnonzero(self._places[:, 0] >= 0)

    def __contains__(self, i: int) -> bool:
        return bool(self._places[i, 0] >= 0)

    def params(self, i: int, augmentation: int) -> Params:
        """How to replay augmentation number `augmentation` of sample `i`."""
        sidecar, row = self._row(i)
        return sidecar.params(row, augmentation)

    def image_embeds(self, i: int, augmentation: int) -> tuple[Tensor, ...]:
        """Each teacher's unit vector (D_k,) of that augmented picture."""
        sidecar, row = self._row(i)
        return sidecar.image_embeds(row, augmentation)

    def text_embeds(self, i: int, caption: Caption) -> tuple[Tensor, ...]:
        """Each teacher's unit vector (D_k,) of a caption of sample `i`."""
        return self._row(i)[0].text_embeds(caption.number)

    def captions(self, i: int, sample: Sample) -> tuple[Caption, ...]:
        """The captions of sample `i`, true and synthetic, with their texts.

        Raises:
            ArtifactError: a true caption of the data set is not the one whose embedding is stored.
        """
        sidecar, row = self._row(i)
        stored = sidecar.captions(row)
        given = iter(true_captions(sample, self.manifest.job.languages))
        found = []
        for caption in stored:
            if not caption.synthetic:
                true = next(given, None)
                if true is None or text_hash(true.text) != sidecar.text_hash(caption.number):
                    raise ArtifactError(
                        f"a caption of `{sample.key}` is not the one that was embedded",
                        where=sidecar.path,
                        hint="use the captions that this was made from, or delete the file and "
                        "run `clip-edge reinforce` again",
                    )
                caption = Caption(true.text, caption.language, False, caption.number)
            found.append(caption)
        return tuple(found)

    def check(self, i: int, image: bytes) -> None:
        """Raise ArtifactError unless sample `i` was described from exactly this encoded picture."""
        sidecar, row = self._row(i)
        check_picture(sidecar, row, image)

    def _row(self, i: int) -> tuple[Sidecar, int]:
        number, row = self._places[i].tolist()
        if number < 0:
            raise IndexError(f"sample {i} has no readable picture")
        return self._sidecars[number], row


def open_reinforced(
    dataset: DataSet, folder: Path, *, check_hashes: bool = True, allow_other_versions: bool = False
) -> Reinforced:
    """The stored knowledge about `dataset`.

    Args:
        folder: what `clip-edge reinforce --out` was given, or the folder of reinforce.json itself.
        check_hashes: read every file once and compare its SHA-256; without it only sizes and keys are compared.
        allow_other_versions: accept other versions of Pillow and torchvision that give the same pixels.

    Raises:
        UsageError: there is no reinforced data in `folder`.
        ArtifactError: it is incomplete, damaged, of other pictures, or made with other augmentation packages.
    """
    folder = find_folder(folder, dataset.split)
    manifest = read_manifest(folder)
    refuse_other_versions(manifest.job, folder / NAME, allow=allow_other_versions)
    records = {file.shard: file for file in manifest.files}
    places = np.full((len(dataset), 2), -1, dtype=np.int64)
    sidecars: list[Sidecar] = []
    for shard in shards_of(dataset):
        record = records.get(shard.name)
        if record is None:
            raise ArtifactError(
                f"the shard {shard.name} has no sidecar: {len(records)} of {len(shards_of(dataset))} are made",
                where=folder,
                hint="run `clip-edge reinforce` again: it continues",
            )
        sidecar = _open_checked(folder, record, manifest, check_hashes)
        check_shard(sidecar, shard, dataset)
        places[shard.first + sidecar.positions, 0] = len(sidecars)
        places[shard.first + sidecar.positions, 1] = np.arange(len(sidecar))
        sidecars.append(sidecar)
    return Reinforced(folder, manifest, tuple(sidecars), places)


def _open_checked(folder: Path, record: FileRecord, manifest: Manifest, check_hashes: bool) -> Sidecar:
    path = folder / record.path
    sidecar = Sidecar(path, manifest.job.shape)
    if path.stat().st_size != record.bytes:
        raise ArtifactError(
            f"the sidecar is damaged: expected {record.bytes} bytes, found {path.stat().st_size}",
            where=path,
            hint=REMAKE,
        )
    if check_hashes and (found := sha256_file(path)) != record.sha256:
        raise damaged(path, record.sha256, found)
    if sidecar.header.job != manifest.job.id:
        raise ArtifactError(
            "the sidecar was made by another job than the reinforce.json beside it",
            where=path,
            hint=REMAKE,
        )
    return sidecar
