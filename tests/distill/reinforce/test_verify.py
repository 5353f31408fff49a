"""Embedding a random sample again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.reinforce import engine
from clip_edge.distill.reinforce.engine import Options, Work, prepare, reinforce
from clip_edge.distill.reinforce.manifest import read_manifest, write_manifest
from clip_edge.distill.reinforce.sidecar import read_tensors, write_sidecar
from clip_edge.distill.reinforce.verify import TOLERANCE, verify
from clip_edge.errors import ArtifactError
from clip_edge.files import sha256_file


def test_what_was_made_is_true(made: tuple[Work, Path], options: Options) -> None:
    results = verify(open_dataset(options.data), made[1], device="cpu")
    assert [one.teacher for one in results] == ["tiny-vit", "other"]
    for one in results:
        assert one.passed
        assert one.images == 23
        assert one.texts == 23 * 3
        assert min(one.min_image_cosine, one.min_text_cosine) > 0.9999


def test_int8_has_a_tolerance_of_its_own(options: Options, tmp_path: Path) -> None:
    work = prepare(engine.replace(options, out=tmp_path, dtype="int8"))
    reinforce(work)
    for one in verify(work.dataset, tmp_path, device="cpu"):
        assert one.tolerance == TOLERANCE["int8"]
        assert one.passed
        assert one.min_image_cosine > 0.999


@pytest.mark.parametrize("kind", ["image", "text"])
def test_vectors_of_another_picture_fail(copy: Path, options: Options, kind: str) -> None:
    """A sidecar whose rows were shuffled, with hashes that hold: only the teachers can tell."""
    folder = copy / "train"
    path = folder / "shard-000000.reinforce.safetensors"
    tensors, header = read_tensors(path)
    name = f"{kind}.1"
    tensors = {key: value.clone() for key, value in tensors.items()}
    tensors[name] = tensors[name].roll(1, 0)
    write_sidecar(path, tensors, header)
    manifest = read_manifest(folder)
    changed = engine.replace(manifest.files[0], sha256=sha256_file(path))
    write_manifest(folder, engine.replace(manifest, files=(changed, *manifest.files[1:])))
    first, second = verify(open_dataset(options.data), copy, device="cpu")
    assert first.passed
    assert not second.passed


def test_another_version_of_a_teacher_is_refused(
    made: tuple[Work, Path], options: Options, tmp_path: Path, save_open_clip: Callable
) -> None:
    newer = save_open_clip(tmp_path / "newer", size=48, embed_dim=40, seed=8, mean=0.3)
    dataset = open_dataset(options.data)
    with pytest.raises(ArtifactError) as problem:
        verify(dataset, made[1], teachers=[options.teachers[0], f"open_clip:{newer}"], device="cpu")
    message = str(problem.value)
    assert message.startswith(f"`open_clip:{newer}` is another version of the teacher other: expected weights ")
    assert (
        f"\n  in: {made[1] / 'train' / 'reinforce.json'}\n\nhint: give the teacher that this was made with" in message
    )
    with pytest.raises(ArtifactError, match=r"^this folder was made with 2 teachers; 1 are given"):
        verify(dataset, made[1], teachers=options.teachers[:1], device="cpu")
