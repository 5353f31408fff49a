"""Making sidecars: what they say, bad pictures, and restarts that end with the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.reinforce import engine
from clip_edge.distill.reinforce.augment import replay
from clip_edge.distill.reinforce.engine import Options, Work, prepare, reinforce
from clip_edge.distill.reinforce.reader import open_reinforced
from clip_edge.distill.teacher import load_teacher
from clip_edge.errors import ArtifactError, UsageError
from clip_edge.images import open_image


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, by its hash."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_stored_vectors_are_those_of_the_teachers(made: tuple[Work, Path], options: Options) -> None:
    """Every picture, augmentation and caption, embedded here one at a time by the teachers themselves."""
    dataset = open_dataset(options.data)
    stored = open_reinforced(dataset, made[1])
    for k, spec in enumerate(options.teachers):
        teacher = load_teacher(spec, device="cpu")
        size = teacher.info.preprocess.size
        for i in (0, 9, 23):
            sample = dataset.sample(i)
            for a in range(3):
                pixels = np.asarray(replay(open_image(sample.image), stored.params(i, a), size))[None]
                expected = teacher.encode_images(pixels)[0]
                assert float(stored.image_embeds(i, a)[k] @ expected) == pytest.approx(1, abs=0.003)
            for caption in stored.captions(i, sample):
                expected = teacher.encode_texts([caption.text])[0]
                assert float(stored.text_embeds(i, caption)[k] @ expected) == pytest.approx(1, abs=0.003)
    texts = [(one.text, one.synthetic) for one in stored.captions(9, dataset.sample(9))]
    assert texts == [("noise 9", False), ("synthetic 9 0", True), ("synthetic 9 1", True)]


def test_the_shards_are_untouched(made: tuple[Work, Path], shards: Path) -> None:
    assert sorted(path.name for path in (shards / "train").iterdir()) == [f"shard-00000{i}.tar" for i in range(3)]
    assert sorted(path.name for path in (made[1] / "train").iterdir()) == [
        "reinforce.json",
        *(f"shard-00000{i}.reinforce.safetensors" for i in range(3)),
    ]


def test_a_bad_picture_is_named_and_stays_out_of_training(made: tuple[Work, Path], options: Options) -> None:
    dataset = open_dataset(options.data)
    stored = open_reinforced(dataset, made[1])
    (skipped,) = stored.manifest.skipped
    assert (skipped.key, skipped.shard) == ("000010", "shard-000001")
    assert skipped.reason.startswith("the picture cannot be decoded: ")
    assert [file.samples for file in stored.manifest.files] == [8, 7, 8]
    assert 10 not in stored
    assert 11 in stored
    assert stored.usable.tolist() == [i for i in range(24) if i != 10]
    with pytest.raises(IndexError):
        stored.params(10, 0)


def test_the_seed_and_the_key_decide_and_nothing_else(
    options: Options, tmp_path: Path, made: tuple[Work, Path]
) -> None:
    again, other = (
        prepare(engine.replace(options, out=tmp_path / name, seed=seed)) for name, seed in (("same", 0), ("other", 1))
    )
    reinforce(again)
    assert contents(tmp_path / "same") == contents(made[1])
    reinforce(other)
    first, second = (open_reinforced(again.dataset, tmp_path / name) for name in ("same", "other"))
    assert all(first.params(i, 0) != second.params(i, 0) for i in first.usable)
    assert len({first.params(i, a) for i in first.usable for a in range(3)}) > 60


def test_int8_says_the_same(options: Options, tmp_path: Path, made: tuple[Work, Path]) -> None:
    work = prepare(engine.replace(options, out=tmp_path, dtype="int8"))
    reinforce(work)
    plain, small = (open_reinforced(work.dataset, out) for out in (made[1], tmp_path))
    for i in plain.usable.tolist():
        assert plain.params(i, 2) == small.params(i, 2)
        for one, two in zip(plain.image_embeds(i, 2), small.image_embeds(i, 2), strict=True):
            assert float(one @ two) == pytest.approx(1, abs=0.004)


def test_sidecars_stand_beside_the_shards_by_default(options: Options, tmp_path: Path) -> None:
    import shutil

    data = shutil.copytree(options.data, tmp_path / "data")
    work = prepare(engine.replace(options, data=data))
    reinforce(work)
    assert (data / "train" / "shard-000000.reinforce.safetensors").is_file()
    assert len(open_reinforced(open_dataset(data), data).usable) == 23


def test_data_without_shards_are_described_in_parts(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clip_edge.distill.reinforce import shards

    monkeypatch.setattr(shards, "PART", 4)
    lines = ["filepath,title"]
    for i in range(10):
        Image.new("RGB", (40, 30), (i * 20, 0, 0)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,red number {i}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    table = tmp_path / "table.csv"
    plain = engine.replace(options, data=table, captions=0, captioner=None)
    with pytest.raises(UsageError) as problem:
        prepare(plain)
    assert str(problem.value) == (
        "this data set has no shards in one folder to put sidecars beside\n\nhint: name a folder: --out DIR"
    )
    reinforce(prepare(engine.replace(plain, out=tmp_path / "out")))
    names = sorted(path.name for path in (tmp_path / "out" / "train").glob("part-*"))
    assert names == [f"part-00000{i}.reinforce.safetensors" for i in range(3)]
    stored = open_reinforced(open_dataset(table), tmp_path / "out")
    assert len(stored.usable) == 10


def test_a_shard_without_a_single_readable_picture_has_an_empty_sidecar(options: Options, tmp_path: Path) -> None:
    import io
    import shutil
    import tarfile

    data = Path(shutil.copytree(options.data, tmp_path / "data"))
    with tarfile.open(data / "train" / "shard-000001.tar", "w") as tar:
        for name, content in (("bad.jpg", b"no picture"), ("bad.txt", b"a caption")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    for dtype in ("bf16", "int8"):
        work = prepare(engine.replace(options, data=data, out=tmp_path / dtype, dtype=dtype))
        manifest = reinforce(work)
        assert [file.samples for file in manifest.files] == [8, 0, 8]
        assert [(one.key, one.reason) for one in manifest.skipped] == [("bad", "not a picture that clip-edge reads")]
        assert len(open_reinforced(work.dataset, tmp_path / dtype).usable) == 16


def test_a_file_in_the_way_is_named(options: Options, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(UsageError) as problem:
        reinforce(prepare(engine.replace(options, out=tmp_path / "out")))
    assert str(problem.value).startswith(f"cannot write: Not a directory\n  in: {tmp_path / 'out'}")


class Killed(BaseException):
    """Stands for the end of the process at any line."""


def test_interrupted_anywhere_it_continues_to_the_same_bytes(
    options: Options, tmp_path: Path, made: tuple[Work, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is cut after every single file it writes; pieces of three pictures make many places."""
    monkeypatch.setattr(engine, "PIECE", 3)
    work = prepare(engine.replace(options, out=tmp_path / "out"))
    reinforce(prepare(engine.replace(options, out=tmp_path / "whole")))
    described = 0
    real = engine.knowledge.describe

    def once(*args: object) -> object:
        nonlocal described
        described += 1
        if described % 2 == 0:
            raise Killed
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.knowledge, "describe", once)
    runs = 0
    while runs < 40:
        runs += 1
        try:
            reinforce(work)
            break
        except Killed:
            continue
    assert 5 < runs < 40
    assert described == 2 * runs - 1, "a piece that was finished is not made again"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_second_run_has_nothing_to_do(made: tuple[Work, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(made[1])
    monkeypatch.setattr(engine.knowledge, "describe", None)
    reinforce(made[0])
    assert contents(made[1]) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, "this folder was made with another `seed`: expected 0, found 5"),
        ({"dtype": "int8"}, "this folder was made with another `dtype`: expected bf16, found int8"),
        ({"augmentations": 2}, "this folder was made with another `augmentations`: expected 3, found 2"),
    ],
)
def test_another_job_in_the_same_folder_is_refused(options: Options, copy: Path, change: dict, message: str) -> None:
    with pytest.raises(ArtifactError) as problem:
        reinforce(prepare(engine.replace(options, out=copy, **change)))
    assert str(problem.value) == (
        f"{message}\n  in: {copy / 'train' / 'reinforce.json'}\n\n"
        "hint: name another folder with --out, or delete the sidecars and reinforce.json of this one"
    )


def test_another_teacher_in_the_same_folder_is_refused(
    options: Options, copy: Path, tmp_path: Path, save_open_clip: Callable
) -> None:
    newer = save_open_clip(tmp_path / "newer", size=48, embed_dim=40, seed=8, mean=0.3)
    with pytest.raises(ArtifactError) as problem:
        reinforce(prepare(engine.replace(options, out=copy, teachers=(options.teachers[0], f"open_clip:{newer}"))))
    assert str(problem.value).startswith(
        "this folder was made with another version of a teacher: expected other with weights "
    )
    with pytest.raises(ArtifactError, match=r"^this folder was made with 2 teachers; now there are 1\n"):
        reinforce(prepare(engine.replace(options, out=copy, teachers=options.teachers[:1])))


def test_a_damaged_sidecar_is_not_taken_over(options: Options, copy: Path) -> None:
    path = copy / "train" / "shard-000001.reinforce.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    work = prepare(engine.replace(options, out=copy))
    with pytest.raises(ArtifactError) as problem:
        reinforce(work)
    assert str(problem.value).startswith("the sidecar is damaged: expected SHA-256 ")
    path.unlink()
    reinforce(work)
    assert len(open_reinforced(work.dataset, copy).usable) == 23


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captioner": None}, "2 synthetic captions per picture need a captioner\n\nhint: name one with --captioner"),
        ({"captioner": "rewrite"}, "the captioner `rewrite` needs the built-in data set; web is another one"),
        ({"captioner": "rewrit"}, "unknown captioner: `rewrit`\n\nhint: did you mean `rewrite`?"),
        ({"languages": ("xx",)}, "unknown caption language: `xx`"),
        ({"split": "vall"}, "unknown split: `vall`"),
    ],
)
def test_what_cannot_be_done_is_said_before_work_begins(options: Options, changes: dict, message: str) -> None:
    with pytest.raises(UsageError) as problem:
        prepare(engine.replace(options, **changes))
    assert str(problem.value).startswith(message)


def test_the_plan_is_about_right(options: Options, made: tuple[Work, Path]) -> None:
    plan = engine.expect(made[0])
    size = sum(path.stat().st_size for path in (made[1] / "train").glob("*.safetensors"))
    assert plan["samples"] == 24
    assert plan["shards"] == 3
    headers = 3 * 1500  # what names the tensors of three tiny files
    assert plan["expected_bytes"] == pytest.approx(size - headers, rel=0.06)  # one of 24 is broken
    assert plan["expected_s"] > 0


KILLER = """
import functools, os, pathlib, random, signal, sys, time, torch, open_clip
from clip_edge.cli import main
from clip_edge.distill.reinforce import engine, knowledge
torch.set_num_threads(1)
engine.PIECE = 4
engine.load_teacher = functools.cache(engine.load_teacher)  # children begin with the work, not with loading
words, whole, cut = sys.argv[1:-2], sys.argv[-2], sys.argv[-1]
assert main([*words, "--out", whole]) == 0
real = knowledge.describe
def describe(*args):
    time.sleep(0.05)
    return real(*args)
knowledge.describe = describe
rng = random.Random(0)
killed = 0
while killed < 20:
    child = os.fork()
    if child == 0:
        os._exit(main([*words, "--out", cut, "-q"]))
    time.sleep(rng.uniform(0.02, 0.6))
    os.kill(child, signal.SIGKILL)
    killed += os.waitpid(child, 0)[1] == signal.SIGKILL
    sys.stderr.write(f"files: {len(os.listdir(cut + '/train')) if os.path.isdir(cut + '/train') else 0}\\n")
    if os.path.exists(cut + "/train/shard-000002.reinforce.safetensors") and killed < 20:
        # It was done early: there is work again. A child that was killed at once may have left it missing.
        pathlib.Path(cut, "train/shard-000001.reinforce.safetensors").unlink(missing_ok=True)
knowledge.describe = real
sys.exit(main([*words, "--out", cut]))
"""


@pytest.mark.slow
def test_killed_at_20_random_moments_it_ends_with_the_same_bytes(options: Options, tmp_path: Path) -> None:
    """The real command in processes of their own, ended with SIGKILL again and again."""
    assert options.captioner is not None
    words = ["reinforce", str(options.data), "--augmentations", "3", "--batch-size", "6", "--device", "cpu"]
    words += [word for spec in options.teachers for word in ("--teacher", spec)]
    words += ["--captioner", options.captioner]
    result = subprocess.run(
        [sys.executable, "-c", KILLER, *words, str(tmp_path / "whole"), str(tmp_path / "cut")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "cut")) == 4
