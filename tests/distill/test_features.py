"""Stored features stand for pictures: the same samples, the same captions, broken ones replaced alike."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from clip_edge.distill import features
from clip_edge.distill.data.loader import make_batches
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.samples import DataSet, Problem
from clip_edge.distill.distributed import Processes
from clip_edge.distill.models.spec import ImageSpec, StudentSpec, TextTowerSpec, TokenizerSpec
from clip_edge.distill.models.student import Student, build_student
from clip_edge.distill.models.tokenizers import train_tokenizer
from clip_edge.errors import DataError

ALONE = Processes(0, 1, torch.device("cpu"))
TOKENIZER = train_tokenizer(["a red apple", "two cats"], 300, 24)


@pytest.fixture(scope="module")
def student() -> Student:
    image = ImageSpec("timm:resnet10t", 32, {"channels": [8, 16, 16, 32], "stem_width": 8})
    text = TextTowerSpec(depth=1, width=32, heads=2, context_length=24, causal=False, pad_mask=True)
    return build_student(StudentSpec("tiny", 16, image, text, TokenizerSpec("trained", 300)), TOKENIZER).eval()


def with_broken_pictures(source: Path, folder: Path, broken: set[int]) -> DataSet:
    """A copy of `source` as plain shards in which some pictures cannot be decoded."""
    whole = open_dataset(source, "train")
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for i in range(20):
            sample = whole.sample(i)
            for name, content in (
                (f"{i:03d}.png", b"\x89PNG cut" if i in broken else sample.image),
                (f"{i:03d}.txt", sample.captions["en"][0].encode()),
            ):
                path = folder / name
                path.write_bytes(content)
                tar.add(path, name)
                path.unlink()
    return open_dataset(folder, "train")


def known(student: Student, dataset: DataSet, cache: Path, heard: list[Problem]) -> features.Features:
    spec = student.spec.image.preprocess()
    return features.trunk_features(student, dataset, spec, cache, here=ALONE, on_problem=heard.append)


def test_batches_are_those_of_the_picture_loader(tiny_emoji: Path, student: Student, tmp_path: Path) -> None:
    dataset = with_broken_pictures(tiny_emoji, tmp_path / "data", {3, 4, 19})
    heard: list[Problem] = []
    found = known(student, dataset, tmp_path / "cache", heard)
    assert [problem.key for problem in heard] == [dataset.keys[i] for i in (3, 4, 19)]
    assert found.stand_in[[2, 3, 4, 5, 19]].tolist() == [2, 5, 5, 5, 0]
    common = {"tokenizer": TOKENIZER, "batch_size": 8, "seed": 1, "start_step": 1, "langs": ()}
    stored = features.feature_batches(found, dataset, here=ALONE, **common)
    spec = student.spec.image.preprocess()
    looked = make_batches(dataset, spec=spec, on_problem=heard.append, **common)
    for _ in range(5):  # over the end of an epoch of two batches
        one, two = next(stored), next(looked)
        assert torch.equal(one.indices, two.indices)
        assert torch.equal(one.tokens, two.tokens)
        with torch.no_grad():
            expected = student.image_features(two.images)
        torch.testing.assert_close(one.features, expected, rtol=2e-3, atol=1e-3)  # kept in fp16: 5e-4 of each value


def test_every_process_gets_its_part_of_the_batch(tiny_emoji: Path, student: Student, tmp_path: Path) -> None:
    dataset = open_dataset(tiny_emoji, "train")
    found = known(student, dataset, tmp_path, [])
    parts = [
        next(
            features.feature_batches(
                found,
                dataset,
                tokenizer=TOKENIZER,
                batch_size=8,
                seed=0,
                here=Processes(rank, size, ALONE.device),
                start_step=0,
                langs=("en",),
            )
        )
        for rank, size in ((0, 1), (0, 2), (1, 2))
    ]
    assert torch.equal(parts[0].indices, torch.cat([parts[1].indices, parts[2].indices]))
    assert torch.equal(parts[0].tokens, torch.cat([parts[1].tokens, parts[2].tokens]))


def test_other_weights_get_other_features(tiny_emoji: Path, student: Student, tmp_path: Path) -> None:
    dataset = open_dataset(tiny_emoji, "val")
    known(student, dataset, tmp_path, [])
    known(student, dataset, tmp_path, [])
    assert len(list(tmp_path.iterdir())) == 1
    with torch.no_grad():
        next(student.image.trunk.parameters()).add_(0.1)
    known(student, dataset, tmp_path, [])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_is_computed_again(tiny_emoji: Path, student: Student, tmp_path: Path) -> None:
    dataset = open_dataset(tiny_emoji, "val")
    before = known(student, dataset, tmp_path, [])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(known(student, dataset, tmp_path, []).rows, before.rows)


def test_no_readable_picture_is_an_error(tiny_emoji: Path, student: Student, tmp_path: Path) -> None:
    dataset = with_broken_pictures(tiny_emoji, tmp_path / "data", set(range(20)))
    with pytest.raises(DataError, match="no readable picture in data"):
        known(student, dataset, tmp_path / "cache", [])
    shutil.rmtree(tmp_path / "data")
