import json
import os
import pickle
import shutil
import tarfile

import pytest

from clip_edge.console import Console
from clip_edge.distill.data.readers import data_splits, open_dataset
from clip_edge.distill.data.samples import warn_of_problems
from clip_edge.errors import DataError
from clip_edge.images import open_image

PNG, JPG = ".png", ".jpg"


def test_the_built_in_folder(emoji_data):
    assert data_splits(emoji_data) == ("train", "val", "test", "unseen")
    dataset = open_dataset(emoji_data, "val")
    assert (len(dataset), dataset.langs, dataset.name) == (20, ("en", "zh", "de"), "openmoji-scenes")
    sample = dataset.sample(7)
    assert sample.key == "val-0000007"
    assert list(sample.captions) == ["en", "zh", "de"]
    assert open_image(sample.image).size == open_image(sample.mask).size == (64, 64)
    assert sample.label == (sample.classes[0] if len(sample.classes) == 1 else None)
    assert {one.id for one in dataset.classes} >= set(sample.classes)
    assert not dataset.problems


def test_a_data_set_survives_pickling(emoji_data):
    dataset = open_dataset(emoji_data)
    assert pickle.loads(pickle.dumps(dataset)).sample(3) == dataset.sample(3)


def test_unknown_split_names_the_nearest(emoji_data):
    with pytest.raises(DataError) as caught:
        open_dataset(emoji_data, "vall")
    assert str(caught.value) == ("unknown split: `vall`\n\nhint: did you mean `val`? known: test, train, unseen, val")


def test_plain_webdataset_flat(make, tmp_path):
    make.tar(tmp_path / "00001.tar", make.good(2, 2))
    make.tar(tmp_path / "00000.tar", make.good(2))
    dataset = open_dataset(tmp_path)
    assert dataset.keys == ("00000", "00001", "00002", "00003")
    assert dataset.sample(3).captions == {"": ("noise number 3",)}
    assert [dataset.shard_of(i) for i in range(4)] == list(dataset.shard_of_all()) == [0, 0, 1, 1]
    assert dataset.sample(0).image == make.picture(0, "JPEG")
    assert (dataset.sample(0).label, dataset.sample(0).classes, dataset.problems) == (None, (), ())


def test_webdataset_with_splits_and_two_samples_in_one_tar(make, tmp_path):
    members = [("a.png", make.picture(1)), ("a.txt", b"one"), ("b.PNG", make.picture(2)), ("b.txt", "zwei ü".encode())]
    make.tar(tmp_path / "val" / "x.tar", members)
    make.tar(tmp_path / "train" / "x.tar", members)
    assert data_splits(tmp_path) == ("train", "val")
    assert [open_dataset(tmp_path, "val").sample(i).captions[""] for i in (0, 1)] == [("one",), ("zwei ü",)]


def test_a_single_tar_and_img2dataset_json(make, tmp_path):
    meta = {"caption": "from  json", "url": "https://example.org", "objects": 3}
    tar = make.tar(
        tmp_path / "one.tar", [("d/7.webp", make.picture(7, "WEBP")), ("d/7.json", json.dumps(meta).encode())]
    )
    assert open_dataset(tar).sample(0).captions == {"": ("from json",)}
    assert open_dataset(tar).keys == ("d/7",)


def test_a_truncated_tar_keeps_what_is_whole_and_names_the_cut(make, tmp_path):
    tar = make.tar(tmp_path / "cut.tar", make.good(4))
    whole = tar.read_bytes()
    with tarfile.open(tar) as file:
        last = file.getmembers()[-2]  # the picture of the last sample
    tar.write_bytes(whole[: last.offset_data + 10])
    dataset = open_dataset(tmp_path)
    assert dataset.keys == ("00000", "00001", "00002")
    assert [(p.kind, p.where, p.reason) for p in dataset.problems] == [
        ("damaged tar", str(tar), "the file is cut inside `00003.jpg`")
    ]


def test_unusable_samples_are_left_out_and_named(make, tmp_path):
    members = [
        *make.good(1),
        ("empty.png", b""),
        ("empty.txt", b"a caption"),
        ("mute.png", make.picture()),
        ("alone.txt", b"no picture"),
        ("00000.jpg", make.picture(9, "JPEG")),
        ("notes.pyd", b"ignored"),
    ]
    make.tar(tmp_path / "a.tar", members)
    dataset = open_dataset(tmp_path)
    assert dataset.keys == ("00000",)
    assert dataset.sample(0).image == make.picture(0, "JPEG")
    assert make.kinds(dataset.problems) == [
        ("duplicate key", "00000"),
        ("empty picture", "empty"),
        ("missing caption", "mute"),
        ("missing picture", "alone"),
    ]
    warnings: list[str] = []
    console = Console()
    console.warn = warnings.append
    warn_of_problems(dataset, console)
    assert len(warnings) == 1
    assert warnings[0].startswith("4 problems in ")
    assert str(tmp_path / "a.tar") in warnings[0]


def test_keys_repeated_in_another_shard_are_kept_and_named(make, tmp_path):
    make.tar(tmp_path / "a.tar", make.good(2))
    make.tar(tmp_path / "b.tar", make.good(2, 1))
    dataset = open_dataset(tmp_path)
    assert dataset.keys == ("00000", "00001", "00001", "00002")
    assert make.kinds(dataset.problems) == [("duplicate key", "00001")]


@pytest.mark.parametrize("name", ["../../x.png", "/etc/x.png", "a/../../x.png", "..\\x.png"])
def test_hostile_names_are_never_used(make, tmp_path, name):
    make.tar(tmp_path / "a.tar", [*make.good(1), (name, make.picture()), (name.replace(PNG, ".txt"), b"bad")])
    dataset = open_dataset(tmp_path)
    assert dataset.keys == ("00000",)
    assert {problem.kind for problem in dataset.problems} == {"unsafe name"}


def test_links_in_a_tar_are_not_followed(make, tmp_path):
    tar = make.tar(tmp_path / "a.tar", make.good(1))
    with tarfile.open(tar, "a") as file:
        info = tarfile.TarInfo("secret.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(info)
    dataset = open_dataset(tmp_path)
    assert dataset.keys == ("00000",)
    assert make.kinds(dataset.problems) == [("not a file", "secret.png")]


def test_a_listed_shard_that_is_gone_is_named(emoji_data, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(emoji_data, folder)
    shard = folder / "val" / "shard-000000.tar"
    shard.unlink()
    with pytest.raises(
        DataError, match=r"^the data set is empty: no usable sample in `val`: the shard is listed"
    ) as caught:
        open_dataset(folder, "val")
    assert str(shard) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "`schema` must be 1; found 2: the folder was written by a newer clip-edge"),
        ({"extra": 1}, "unknown key: `extra`"),
        ({"classes": "../../../etc/passwd"}, "a path leaves the folder: `../../../etc/passwd`"),
    ],
)
def test_a_tampered_dataset_json_is_refused(emoji_data, tmp_path, change, message):
    folder = tmp_path / "copy"
    shutil.copytree(emoji_data, folder)
    info = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**info, **change}))
    with pytest.raises(DataError) as caught:
        open_dataset(folder)
    assert caught.value.what == message


def test_a_shard_path_that_leaves_the_folder_is_refused(emoji_data, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(emoji_data, folder)
    text = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(text.replace("train/shard-000000.tar", "../../secret.tar"))
    with pytest.raises(DataError, match=r"^a path leaves the folder: `../../secret.tar`"):
        open_dataset(folder)


@pytest.mark.parametrize(("suffix", "comma"), [(".csv", ","), (".tsv", "\t")])
def test_tables_group_captions_by_picture_and_name_missing_files(make, tmp_path, suffix, comma):
    (tmp_path / "p").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "p" / name).write_bytes(make.picture())
    (tmp_path / "p" / "zero.png").write_bytes(b"")
    rows = [
        ("filepath", "title", "extra"),
        ("p/a.png", "first", "x"),
        ("p/b.png", '"quoted, with comma"' if comma == "," else "plain", "x"),
        ("p/a.png", "second", "x"),
        ("p/gone.png", "nothing", "x"),
        ("p/zero.png", "nothing", "x"),
        ("p/b.png", "", "x"),
        ("", "no picture", "x"),
    ]
    table = tmp_path / f"data{suffix}"
    table.write_text("\n".join(comma.join(row) for row in rows), encoding="utf-8-sig")
    dataset = open_dataset(table)
    assert dataset.keys == ("p/a.png", "p/b.png")
    assert dataset.sample(0).captions == {"": ("first", "second")}
    assert dataset.sample(0).image == make.picture()
    assert sorted(make.kinds(dataset.problems)) == [
        ("empty picture", "p/zero.png"),
        ("missing caption", "p/b.png"),
        ("missing file", "p/gone.png"),
        ("missing picture", "line 8"),
    ]


def test_table_columns_can_be_named_and_wrong_ones_are_an_error(make, tmp_path):
    (tmp_path / "a.png").write_bytes(make.picture())
    table = tmp_path / "t.csv"
    table.write_text("bild,text\na.png,hallo\n")
    assert open_dataset(table, columns=("bild", "text")).sample(0).captions == {"": ("hallo",)}
    with pytest.raises(DataError) as caught:
        open_dataset(table)
    assert str(caught.value) == f"no columns filepath and title; found bild, text\n  in: {table}"


def test_lines_that_are_not_utf8_are_named(make, tmp_path):
    (tmp_path / "a.png").write_bytes(make.picture())
    (tmp_path / "t.csv").write_bytes(b"filepath,title\na.png,caf\xe9\na.png,fine\n")
    dataset = open_dataset(tmp_path / "t.csv")
    assert dataset.sample(0).captions == {"": ("fine",)}
    assert make.kinds(dataset.problems) == [("not UTF-8", "line 2")]


def test_a_folder_of_tables_has_splits(make, tmp_path):
    (tmp_path / "a.png").write_bytes(make.picture())
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text("image,caption\na.png,hallo\n")
    assert sorted(data_splits(tmp_path)) == ["train", "val"]
    assert len(open_dataset(tmp_path, "val")) == 1


def test_class_folders(make, tmp_path):
    for name in ("hot_dog/1.jpg", "hot_dog/deep/2.jpeg", "train/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(make.picture(1, "JPEG"))
    (tmp_path / "train" / "0.png").write_bytes(b"")
    (tmp_path / "train" / "list.txt").write_text("x")
    (tmp_path / "train" / ".DS_Store").write_text("x")
    (tmp_path / "train" / "dead.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "loose.png").write_bytes(make.picture())
    shutil.rmtree(tmp_path / "hot_dog" / "deep")
    dataset = open_dataset(tmp_path)
    assert dataset.keys == ("hot_dog/1.jpg", "train/1.png")
    assert [(one.id, one.names) for one in dataset.classes] == [
        ("hot_dog", {"": "hot dog"}),
        ("train", {"": "train"}),
    ]
    first = dataset.sample(0)
    assert (first.label, first.classes, first.captions) == ("hot_dog", ("hot_dog",), {"": ("hot dog",)})
    assert list(dataset.shard_of_all()) == [0, 0]
    assert sorted(make.kinds(dataset.problems)) == [
        ("empty picture", "train/0.png"),
        ("missing file", "train/dead.png"),
        ("no class", "loose.png"),
        ("not a picture", "train/list.txt"),
    ]


def test_class_folders_with_splits(make, tmp_path):
    for name in ("train/cat/1.png", "val/dog/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(make.picture())
    assert data_splits(tmp_path) == ("train", "val")
    assert open_dataset(tmp_path, "val").sample(0).label == "dog"


def test_nothing_there(tmp_path):
    missing = tmp_path / "none"
    with pytest.raises(DataError) as caught:
        open_dataset(missing)
    assert str(caught.value) == (f"no such data set: {missing}\n\nhint: make one with `clip-edge data emoji --out DIR`")
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path)
    assert str(caught.value) == (
        f"the data set is empty: no samples found\n  in: {tmp_path}\n\n"
        "hint: expected a folder of tar shards, a .csv or .tsv file, or one folder per class"
    )
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"^not a data set: `x.zip`"):
        open_dataset(tmp_path / "x.zip")


def test_captions_of_the_wrong_shape_are_errors_of_their_sample(make, tmp_path):
    metas = [
        b'{"captions": {"en": "text"}}',
        b'{"captions": [1]}',
        b"[1]",
        b"{",
        b'{"captions": {"en": ["", " "]}}',
        b"{}",
    ]
    members = []
    for i, meta in enumerate(metas):
        members += [(f"{i}.png", make.picture()), (f"{i}.json", meta)]
    members += [("6.png", make.picture()), ("6.txt", b"\xff\xfe")]
    make.tar(tmp_path / "a.tar", members)
    dataset = open_dataset(tmp_path)
    for i in range(7):
        with pytest.raises(DataError) as caught:
            dataset.sample(i)
        assert f"a.tar: {i}" in str(caught.value)


def test_a_fifo_in_a_table_is_not_opened(make, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "a.png").write_bytes(make.picture())
    (tmp_path / "t.csv").write_text("filepath,title\npipe.png,x\na.png,y\n")
    assert make.kinds(open_dataset(tmp_path / "t.csv").problems) == [("missing file", "pipe.png")]
