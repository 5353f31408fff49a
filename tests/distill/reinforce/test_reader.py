"""Reading in training, and refusing whatever does not belong together."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.reinforce import augment, manifest, reader
from clip_edge.distill.reinforce.engine import Options, Work
from clip_edge.distill.reinforce.reader import Reinforced, open_reinforced
from clip_edge.errors import ArtifactError, ClipEdgeError, UsageError


@pytest.fixture
def data(options: Options, tmp_path: Path) -> Path:
    """A copy of the shards that may be changed."""
    return shutil.copytree(options.data, tmp_path / "data")


def refused(data: Path, out: Path, **settings: bool) -> str:
    with pytest.raises(ClipEdgeError) as problem:
        open_reinforced(open_dataset(data), out, **settings)
    assert problem.value.exit_code == (2 if isinstance(problem.value, UsageError) else 1)
    return str(problem.value)


def test_travels_to_workers(made: tuple[Work, Path]) -> None:
    stored = open_reinforced(made[0].dataset, made[1])
    again: Reinforced = pickle.loads(pickle.dumps(stored))
    assert again.params(5, 1) == stored.params(5, 1)
    assert all(torch.equal(a, b) for a, b in zip(again.image_embeds(5, 1), stored.image_embeds(5, 1), strict=True))
    assert [info.dim for info in again.teachers] == [48, 40]
    assert again.augmentations == 3


def test_nothing_there(options: Options, tmp_path: Path) -> None:
    assert refused(options.data, tmp_path) == (
        f"no reinforced data for the split `train` in {tmp_path}\n\nhint: make it with `clip-edge reinforce DATA`"
    )


def test_a_missing_sidecar(options: Options, copy: Path) -> None:
    (copy / "train" / "shard-000002.reinforce.safetensors").unlink()
    assert refused(options.data, copy) == (
        f"missing file: shard-000002.reinforce.safetensors\n"
        f"  in: {copy / 'train' / 'shard-000002.reinforce.safetensors'}\n\n"
        "hint: run `clip-edge reinforce` again: it makes what is missing"
    )


def test_an_unfinished_folder(options: Options, copy: Path) -> None:
    path = copy / "train" / "reinforce.json"
    words = json.loads(path.read_text())
    words["files"].pop()
    path.write_text(json.dumps(words))
    assert refused(options.data, copy) == (
        f"the shard shard-000002 has no sidecar: 2 of 3 are made\n  in: {copy / 'train'}\n\n"
        "hint: run `clip-edge reinforce` again: it continues"
    )


def test_a_corrupted_sidecar(options: Options, copy: Path) -> None:
    path = copy / "train" / "shard-000000.reinforce.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-300] + bytes([good[-300] ^ 255]) + good[-299:])
    message = refused(options.data, copy)
    assert message.startswith("the sidecar is damaged: expected SHA-256 ")
    assert message.endswith(
        f"...\n  in: {path}\n\nhint: delete this file and run `clip-edge reinforce` again: it makes what is missing"
    )
    path.write_bytes(good + b"\0")
    assert refused(options.data, copy, check_hashes=False).startswith("the sidecar is damaged: ")


def test_a_swapped_shard(data: Path, copy: Path) -> None:
    one, two = (data / "train" / f"shard-00000{i}.tar" for i in (0, 2))
    one.rename(data / "x")
    two.rename(one)
    (data / "x").rename(two)
    path = copy / "train" / "shard-000000.reinforce.safetensors"
    assert refused(data, copy) == (
        f"the sidecar describes other pictures: expected `000016`, found `000000`\n  in: {path}\n\n"
        f"hint: put the shard back that this was made from, or delete {path.name} and run `clip-edge reinforce` again"
    )


def test_a_swapped_sidecar(options: Options, copy: Path) -> None:
    one, two = (copy / "train" / f"shard-00000{i}.reinforce.safetensors" for i in (0, 2))
    shutil.copyfile(two, one)
    assert refused(options.data, copy, check_hashes=False).startswith(
        f"the sidecar belongs to the shard shard-000002, not to shard-000000\n  in: {one}"
    ) or refused(options.data, copy, check_hashes=False).startswith("the sidecar is damaged: expected ")
    assert refused(options.data, copy).startswith("the sidecar is damaged: expected ")


def rewrite_shard(path: Path, change: dict[str, bytes]) -> None:
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    import io

    with tarfile.open(path, "w") as tar:
        for name, content in members:
            content = change.get(name, content)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_other_pictures_under_the_same_keys(data: Path, copy: Path, options: Options) -> None:
    other = open_dataset(options.data).sample(20).image
    rewrite_shard(data / "train" / "shard-000000.tar", {"000000.jpg": other})
    path = copy / "train" / "shard-000000.reinforce.safetensors"
    assert refused(data, copy) == (
        f"the picture `000000` is not the one that was described: its bytes differ\n  in: {path}\n\n"
        f"hint: use the pictures that this was made from, or delete {path.name} and run `clip-edge reinforce` again"
    )


def test_every_picture_is_checked_when_it_is_used(data: Path, copy: Path, options: Options) -> None:
    """Opening looks at three pictures of a shard; a fourth one that was replaced is found when training reads it."""
    rewrite_shard(data / "train" / "shard-000000.tar", {"000001.jpg": open_dataset(options.data).sample(20).image})
    dataset = open_dataset(data)
    stored = open_reinforced(dataset, copy)
    stored.check(0, dataset.sample(0).image)
    with pytest.raises(ArtifactError, match=r"^the picture `000001` is not the one that was described"):
        stored.check(1, dataset.sample(1).image)


def test_another_caption(data: Path, copy: Path) -> None:
    rewrite_shard(data / "train" / "shard-000000.tar", {"000001.txt": b"something else"})
    dataset = open_dataset(data)
    stored = open_reinforced(dataset, copy)
    assert stored.captions(0, dataset.sample(0))[0].text == "noise 0"
    with pytest.raises(ArtifactError, match=r"^a caption of `000001` is not the one that was embedded"):
        stored.captions(1, dataset.sample(1))


def test_other_versions_of_the_augmentation_packages(
    options: Options, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = augment.versions()
    monkeypatch.setattr(manifest, "versions", lambda: {"pillow": "1.0", "torchvision": "2.0"})
    path = copy / "train" / "reinforce.json"
    assert refused(options.data, copy) == (
        f"made with pillow {made['pillow']}, torchvision {made['torchvision']}; found pillow 1.0, torchvision 2.0\n"
        f"  in: {path}\n\nhint: pip install pillow=={made['pillow']} torchvision=={made['torchvision']}; or accept the "
        "difference (allow_other_versions): every operation gives the same pixels on our chart"
    )
    assert len(open_reinforced(open_dataset(options.data), copy, allow_other_versions=True).usable) == 23
    monkeypatch.setattr(manifest, "pixels_sha256", lambda: "other pixels")
    assert refused(options.data, copy, allow_other_versions=True).startswith(
        "the augmentations give other pixels here (pillow 1.0, torchvision 2.0) than where this was made ("
    )


def test_a_manifest_of_another_job(options: Options, copy: Path) -> None:
    path = copy / "train" / "reinforce.json"
    words = json.loads(path.read_text())
    words["job"]["seed"] = 99
    path.write_text(json.dumps(words))
    assert refused(options.data, copy).startswith(
        "the sidecar was made by another job than the reinforce.json beside it\n"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "`schema` must be 1; found 2: the folder was written by a newer clip-edge"),
        ({"extra": 1}, "unknown key: `extra`"),
        ({"split": None}, "`split` must be a string; found None"),
    ],
)
def test_a_manifest_that_is_not_ours(options: Options, copy: Path, change: dict, message: str) -> None:
    path = copy / "train" / "reinforce.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert refused(options.data, copy) == f"{message}\n  in: {path}"


def test_a_path_may_not_leave_the_folder(options: Options, copy: Path) -> None:
    stored = manifest.read_manifest(copy / "train")
    files = (dataclasses.replace(stored.files[0], path="../../evil"), *stored.files[1:])
    manifest.write_manifest(copy / "train", dataclasses.replace(stored, files=files))
    assert refused(options.data, copy).startswith("a path leaves the folder: `../../evil`")
    assert reader.NAME == "reinforce.json"
