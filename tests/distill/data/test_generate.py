import dataclasses
import hashlib
import json
import shutil
import subprocess
import tarfile
import warnings

import numpy as np
import pytest

from clip_edge.distill.data.emoji import LANGUAGES, render
from clip_edge.distill.data.generate import SPLITS, EmojiOptions, plan, write_emoji
from clip_edge.distill.data.readers import open_dataset
from clip_edge.errors import UnavailableError, UsageError
from clip_edge.images import open_image


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_processes(emoji_data, make, tmp_path):
    write_emoji(tmp_path / "again", dataclasses.replace(make.options, workers=2))
    assert digests(tmp_path / "again") == digests(emoji_data)


def test_another_seed_gives_other_pictures(emoji_data, make, tmp_path):
    write_emoji(tmp_path / "other", dataclasses.replace(make.options, seed=4))
    ours, others = digests(emoji_data), digests(tmp_path / "other")
    assert sorted(ours) == sorted(others)
    same = {name for name in ours if ours[name] == others[name]}
    assert same == {"ATTRIBUTION.md", "LICENSE.txt"}


def test_the_folder_is_as_documented(emoji_data, make):
    assert sorted(digests(emoji_data)) == sorted(
        ["ATTRIBUTION.md", "LICENSE.txt", "classes.json", "contact-sheet.png", "dataset.json"]
        + [f"{split}/shard-000000.tar" for split in SPLITS]
    )
    info = json.loads((emoji_data / "dataset.json").read_text())
    assert (info["schema"], info["seed"], info["size"], info["langs"]) == (1, 3, 64, ["en", "zh", "de"])
    assert info["licence"]["name"] == "CC BY-SA 4.0"
    for split in SPLITS:
        [shard] = info["splits"][split]["shards"]
        tar = emoji_data / shard["path"]
        assert shard["samples"] == info["splits"][split]["samples"] == make.options.samples(split)
        assert shard["bytes"] == tar.stat().st_size
        assert shard["sha256"] == hashlib.sha256(tar.read_bytes()).hexdigest()


def test_unseen_emoji_never_occur_in_the_other_splits(emoji_data):
    classes = {one.id: one.split for one in open_dataset(emoji_data).classes}
    assert sorted(classes.values()).count("unseen") == 8
    assert len(classes) == 40
    for split in SPLITS:
        dataset = open_dataset(emoji_data, split)
        shown = {id_ for i in range(len(dataset)) for id_ in dataset.sample(i).classes}
        assert {classes[id_] for id_ in shown} == {"unseen" if split == "unseen" else "seen"}


def test_members_of_a_sample_agree(emoji_data):
    with tarfile.open(emoji_data / "val" / "shard-000000.tar") as tar:
        for info in tar.getmembers():
            assert (info.mtime, info.uid, info.gid, info.uname) == (0, 0, 0, "")
        names = tar.getnames()
        assert names[:4] == [f"val-0000000.{end}" for end in ("png", "txt", "json", "mask.png")]
        for name in (name for name in names if name.endswith(".json")):
            meta = json.loads(tar.extractfile(name).read())
            text = tar.extractfile(name.replace(".json", ".txt")).read().decode()
            mask_image = open_image(tar.extractfile(name.replace(".json", ".mask.png")).read())
            mask = np.asarray(mask_image)[..., 0]
            assert text == meta["captions"]["en"][0]
            assert list(meta["captions"]) == ["en", "zh", "de"]
            assert all(len(set(texts)) == len(texts) >= 2 for texts in meta["captions"].values())
            for number, one in enumerate(meta["objects"], start=1):
                x, y, wide, high = one["box"]
                assert (mask == number).sum() == one["area_px"] == (mask[y : y + high, x : x + wide] == number).sum()


def test_the_webdataset_library_reads_our_shards(emoji_data):
    import webdataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own, about files that it opens
        shard = str(emoji_data / "train" / "shard-000000.tar")
        samples = list(webdataset.WebDataset(shard, shardshuffle=False).decode("pil"))
    dataset = open_dataset(emoji_data)
    assert [sample["__key__"] for sample in samples] == list(dataset.keys)
    for i in (0, 31, 59):
        ours = dataset.sample(i)
        assert np.array_equal(np.asarray(samples[i]["png"]), np.asarray(open_image(ours.image)))
        assert samples[i]["txt"] == ours.captions["en"][0]
        assert {key: tuple(value) for key, value in samples[i]["json"]["captions"].items()} == ours.captions


def test_all_fourteen_languages(tmp_path):
    options = EmojiOptions(images=4, eval_images=1, emojis=16, unseen=4, size=48, langs=LANGUAGES, workers=1)
    write_emoji(tmp_path / "all", options)
    dataset = open_dataset(tmp_path / "all")
    names = {one.id: one.names for one in dataset.classes}
    for i in range(4):
        sample = dataset.sample(i)
        assert list(sample.captions) == list(LANGUAGES)
        for lang, texts in sample.captions.items():
            assert all(names[id_][lang] in text for id_ in sample.classes for text in texts), lang


def test_shards_hold_a_thousand_samples(tmp_path, monkeypatch):
    monkeypatch.setattr("clip_edge.distill.data.generate.SAMPLES_PER_SHARD", 10)
    options = EmojiOptions(images=25, eval_images=10, emojis=12, unseen=4, size=32, workers=1)
    info = write_emoji(tmp_path / "out", options)
    assert [shard["samples"] for shard in info["splits"]["train"]["shards"]] == [10, 10, 5]
    dataset = open_dataset(tmp_path / "out")
    assert dataset.keys == tuple(f"train-{i:07d}" for i in range(25))
    assert [dataset.shard_of(i) for i in (0, 9, 10, 24)] == [0, 0, 1, 2]


def test_large_scenes_draw_only_what_they_show(tmp_path, monkeypatch):
    """All emoji at 512 pixels took minutes, whatever the number of scenes."""
    drawn = []

    def counted(emoji, size):
        drawn.append((emoji.id, size))
        return render(emoji, size)

    monkeypatch.setattr("clip_edge.distill.data.generate.render", counted)
    options = EmojiOptions(images=2, emojis=48, unseen=24, size=512, objects=(1, 2), workers=1)
    info = write_emoji(tmp_path / "out", options)
    assert {split: table["samples"] for split, table in info["splits"].items()} == dict.fromkeys(SPLITS, 2)
    assert {size for _, size in drawn} == {640}
    assert len(set(drawn)) == len(drawn) <= 4 * 2 * 2
    shown = open_dataset(tmp_path / "out").sample(0)
    assert open_image(shown.image).size == (512, 512)


def test_small_data_sets_have_small_evaluation_splits():
    assert EmojiOptions(images=8).samples("val") == 8
    assert EmojiOptions(images=8000).samples("val") == 500
    assert EmojiOptions(images=8, eval_images=20).samples("val") == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"langs": ("en", "zn")}, "unknown language: `zn`"),
        ({"langs": ("en", "en")}, "--langs needs each language once; found `en,en`"),
        ({"objects": (0, 4)}, "--objects needs a range within 1-4; found `0-4`"),
        ({"objects": (3, 2)}, "--objects needs a range within 1-4; found `3-2`"),
        ({"size": 8}, "--size must lie in 32..1024; found 8"),
        ({"images": 0}, "--images must lie in 1..10000000; found 0"),
        ({"unseen": 2.5}, "--unseen needs a share below 1 or a whole number; found 2.5"),
        ({"emojis": 0}, "--emojis must lie in 1..10000; found 0"),
        ({"unseen": float("nan")}, "--unseen needs a share below 1 or a whole number; found nan"),
    ],
)
def test_options_that_cannot_be(change, message):
    with pytest.raises(UsageError) as caught:
        EmojiOptions(**change)
    assert caught.value.what == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"emojis": 9999}, "--emojis 9999 is more than the "),
        ({"emojis": 10, "unseen": 2}, "8 seen and 2 unseen emoji cannot fill scenes of 4"),
        ({"emojis": 10, "unseen": 0.7}, "3 seen and 7 unseen emoji cannot fill scenes of 4"),
    ],
)
def test_too_few_emoji(change, message):
    with pytest.raises(UsageError) as caught:
        plan(EmojiOptions(**change))
    assert caught.value.what.startswith(message)


def test_an_output_folder_that_exists_is_left_alone(tmp_path, make):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"^the output folder exists"):
        write_emoji(tmp_path / "out", make.options)
    assert digests(tmp_path / "out").keys() == {"mine.txt"}


def test_a_full_disk_leaves_nothing_behind(tmp_path, make):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True, check=False
    )
    if not done or done.returncode:
        pytest.skip("mounting a small disk needs root and the right to mount")
    try:
        with pytest.raises(UnavailableError) as caught:
            write_emoji(disk / "out", make.options)
        assert caught.value.what == "the disk is full: nothing was written"
        assert caught.value.exit_code == 3
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)
