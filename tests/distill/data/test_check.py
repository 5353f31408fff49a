import shutil

import pytest

from clip_edge.distill.data.check import check_dataset
from clip_edge.errors import DataError


def test_a_clean_data_set(emoji_data):
    report = check_dataset(emoji_data)
    assert report.problems == []
    assert [(split.split, split.samples, split.decoded, split.readable) for split in report.splits] == [
        ("train", 60, 60, 60),
        ("val", 20, 20, 20),
        ("test", 20, 20, 20),
        ("unseen", 20, 20, 20),
    ]
    train = report.splits[0]
    assert train.sizes_px == {"64x64": 60}
    assert sorted(train.captions) == ["de", "en", "zh"]
    english = train.captions["en"]
    assert english.samples == 60
    assert 120 < english.captions <= 180
    assert english.characters_min < english.characters_mean < english.characters_max
    assert english.words_mean > 5


def test_a_limit_samples_evenly(emoji_data):
    report = check_dataset(emoji_data, limit=5)
    assert [split.decoded for split in report.splits] == [5, 5, 5, 5]


def test_every_kind_of_damage_is_counted_and_named(make, tmp_path):
    members = [
        *make.good(3),
        ("broken.png", make.picture()[:60]),
        ("broken.txt", b"cut off"),
        ("zero.jpg", b""),
        ("zero.txt", b"0 bytes"),
        ("mute.jpg", make.picture()),
        ("blank.jpg", make.picture()),
        ("blank.txt", b"  \n"),
        ("../out.png", make.picture()),
    ]
    make.tar(tmp_path / "a.tar", members)
    cut = make.tar(tmp_path / "b.tar", make.good(2, 10))
    cut.write_bytes(cut.read_bytes()[:1000])  # inside the first picture
    report = check_dataset(tmp_path).as_dict()
    assert [(problem["kind"], problem["key"]) for problem in report["problems"]] == [
        ("unsafe name", "../out.png"),
        ("empty picture", "zero"),
        ("missing caption", "mute"),
        ("damaged tar", ""),
        ("broken picture", "broken"),
        ("unreadable sample", "blank"),
    ]
    assert set(report["problems_by_kind"].values()) == {1}
    train = report["splits"]["train"]
    assert (train["samples"], train["decoded"], train["readable"]) == (5, 5, 3)


def test_a_changed_byte_is_found_by_its_hash(emoji_data, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(emoji_data, folder)
    shard = folder / "val" / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1  # in the padding after the end: everything still decodes
    shard.write_bytes(data)
    report = check_dataset(folder)
    assert [(split, problem.kind, problem.where) for split, problem in report.problems] == [
        ("val", "wrong hash", str(shard))
    ]


def test_a_mask_of_another_size_is_a_problem(make, tmp_path):
    make.tar(tmp_path / "a.tar", [*make.good(1), ("00000.mask.png", make.picture(size=(5, 5)))])
    [(_, problem)] = check_dataset(tmp_path).problems
    assert (problem.kind, problem.reason) == ("broken mask", "the mask is 5x5, its picture 20x16")


def test_nothing_usable_is_an_error(make, tmp_path):
    tar = make.tar(tmp_path / "a.tar", [("a.png", b""), ("a.txt", b"x")])
    with pytest.raises(DataError) as caught:
        check_dataset(tmp_path)
    assert caught.value.what == f"the data set is empty: no usable sample: the picture has 0 bytes ({tar})"
