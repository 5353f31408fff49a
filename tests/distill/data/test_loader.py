import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch

from clip_edge.distill.data.augment import AugmentSpec
from clip_edge.distill.data.loader import check_langs, epoch_order, make_batches, steps_per_epoch
from clip_edge.distill.data.readers import open_dataset
from clip_edge.errors import DataError, UsageError
from clip_edge.images import open_image
from clip_edge.preprocess import PreprocessSpec, normalize, to_pixels

SPEC = PreprocessSpec(size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
STRONG = AugmentSpec(crop_scale=(0.5, 1.0), jitter=0.3, randaugment_ops=1)
LENGTH = 200


def byte_tokens(texts):
    """UTF-8 bytes, padded with zeros: reversible, so that tests can read the captions back."""
    rows = [list(text.encode())[:LENGTH] for text in texts]
    return np.array([row + [0] * (LENGTH - len(row)) for row in rows], dtype=np.int64)


def texts_of(batch):
    return [bytes(row.tolist()).rstrip(b"\0").decode() for row in batch.tokens]


def take(dataset, count, **more):
    problems = []
    options = {"spec": SPEC, "tokenizer": byte_tokens, "batch_size": 12, "seed": 1, "on_problem": problems.append}
    batches = list(islice(make_batches(dataset, **{**options, **more}), count))
    return batches, problems


def assert_same(ours, others):
    assert len(ours) == len(others)
    for one, two in zip(ours, others, strict=True):
        for name in ("images", "tokens", "indices"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name


@pytest.fixture(scope="module")
def dataset(emoji_data):
    return open_dataset(emoji_data)


def test_a_batch_is_what_the_reference_says(dataset):
    [batch], problems = take(dataset, 1)
    assert (batch.images.shape, batch.images.dtype) == ((12, 3, 32, 32), torch.float32)
    assert (batch.tokens.shape, batch.tokens.dtype) == ((12, LENGTH), torch.int64)
    for row, index in enumerate(batch.indices.tolist()):
        sample = dataset.sample(index)
        expected = normalize(to_pixels(open_image(sample.image), SPEC), SPEC)
        assert np.array_equal(batch.images[row].numpy(), expected)
        assert texts_of(batch)[row] in [text for texts in sample.captions.values() for text in texts]
    assert problems == []


def test_an_epoch_shows_every_sample_once_and_the_next_in_another_order(dataset):
    batches, _ = take(dataset, 10)
    first, second = (torch.cat([b.indices for b in part]).tolist() for part in (batches[:5], batches[5:]))
    assert sorted(first) == sorted(second) == list(range(60))
    assert first != second != list(range(60))


def test_the_last_incomplete_batch_is_dropped(dataset):
    assert steps_per_epoch(dataset, 25) == 2
    batches, _ = take(dataset, 3, batch_size=25)
    seen = torch.cat([batch.indices for batch in batches[:2]]).tolist()
    assert len(set(seen)) == 50
    assert batches[2].indices.tolist() == epoch_order(dataset, 1, 1)[:25].tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(dataset, workers):
    ours, _ = take(dataset, 7, augment=STRONG)
    others, _ = take(dataset, 7, augment=STRONG, workers=workers)
    assert_same(ours, others)


@pytest.mark.parametrize("start", [1, 5, 8])
def test_resuming_gives_the_batches_of_an_undisturbed_run(dataset, start):
    whole, _ = take(dataset, 10, augment=STRONG)
    rest, _ = take(dataset, 10 - start, augment=STRONG, start_step=start)
    assert_same(whole[start:], rest)


def test_ranks_share_the_global_batch_in_order(dataset):
    whole, _ = take(dataset, 6, augment=STRONG)
    for world in (2, 3):
        parts = [take(dataset, 6, augment=STRONG, rank=rank, world_size=world)[0] for rank in range(world)]
        for step, batch in enumerate(whole):
            for name in ("images", "tokens", "indices"):
                joined = torch.cat([getattr(part[step], name) for part in parts])
                assert torch.equal(joined, getattr(batch, name))


def test_another_seed_gives_another_order(dataset):
    ours, _ = take(dataset, 1)
    others, _ = take(dataset, 1, seed=2)
    assert not torch.equal(ours[0].indices, others[0].indices)


def test_the_global_generators_stay_where_they_were(dataset):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    take(dataset, 2, augment=STRONG)
    take(dataset, 2, augment=STRONG, workers=1)
    assert torch.equal(torch.rand(2), expected)


def test_languages_are_chosen_among_those_asked_for(dataset):
    batches, _ = take(dataset, 10, langs=("zh",))
    assert all(any("\u4e00" <= char <= "\u9fff" for char in text) for batch in batches for text in texts_of(batch))
    mixed = [text for batch in take(dataset, 10, langs=("en", "de"))[0] for text in texts_of(batch)]
    german = sum("Hintergrund" in text for text in mixed)
    assert german + sum("background" in text for text in mixed) == 120
    assert 30 < german < 90


def test_captions_change_from_epoch_to_epoch(dataset):
    batches, _ = take(dataset, 20, langs=("en",))
    said = {}
    for batch in batches:
        for index, text in zip(batch.indices.tolist(), texts_of(batch), strict=True):
            said.setdefault(index, set()).add(text)
    assert sum(len(texts) > 1 for texts in said.values()) > 40


def test_a_language_that_the_captions_lack_is_an_error(dataset, make, tmp_path):
    with pytest.raises(UsageError) as caught:
        take(dataset, 1, langs=("en", "fr"))
    assert str(caught.value) == "unknown caption language: `fr`\n\nhint: known: de, en, zh"
    make.tar(tmp_path / "a.tar", make.good(1))
    check_langs(open_dataset(tmp_path), ("fr",))  # captions of unknown language fit any


def test_batches_that_cannot_be(dataset):
    with pytest.raises(UsageError) as caught:
        take(dataset, 1, batch_size=61)
    assert caught.value.what == "the batch of 61 does not fit the data set of 60 samples"
    with pytest.raises(UsageError) as caught:
        take(dataset, 1, world_size=5)
    assert caught.value.what == "a batch of 12 cannot be split evenly over 5 processes"


def broken_data(make, folder, broken):
    members = make.good(12)
    for i in broken:
        members[2 * i] = (members[2 * i][0], b"\x89PNG\r\n\x1a\nnot a picture")
    make.tar(folder / "a.tar", members)
    return open_dataset(folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_pictures_are_replaced_by_the_next_and_reported_once(make, tmp_path, workers):
    dataset = broken_data(make, tmp_path, [3, 4, 11])
    batches, problems = take(dataset, 4, workers=workers)
    seen = torch.cat([batch.indices for batch in batches]).tolist()
    assert not {3, 4, 11} & set(seen)
    assert seen.count(5) == 12  # four epochs, for itself and for the two before it
    assert seen.count(0) == 8
    assert sorted((p.kind, p.key, p.where) for p in problems) == [
        ("unreadable", key, str(tmp_path / "a.tar")) for key in ("00003", "00004", "00011")
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_ends_with_an_error(make, tmp_path, workers):
    dataset = broken_data(make, tmp_path, range(12))
    with pytest.raises(DataError) as caught:
        take(dataset, 1, workers=workers)
    assert "Traceback" not in str(caught.value)
    assert caught.value.what.startswith("12 samples in a row cannot be read; the last one: ")


def test_shards_stay_together_within_a_window(dataset):
    shards = np.repeat(np.arange(20), 3)
    index = dataset.index.copy()
    index[:, 0, 0] = shards
    many = dataclasses.replace(dataset, index=index)
    order = epoch_order(many, 0, 0)
    assert sorted(order) == list(range(60))
    windows = [set(shards[order[start : start + 24]]) for start in (0, 24)]
    assert [len(window) for window in windows] == [8, 8]
    assert not windows[0] & windows[1]
    assert list(order) != list(epoch_order(many, 0, 1))
