"""What identifies a run, and what may differ when it is continued."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from clip_edge.distill import run_folder
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.models.spec import TokenizerSpec, load_spec
from clip_edge.distill.run_folder import Identity
from clip_edge.errors import CheckpointError, ConfigError, UsageError


@dataclass(frozen=True)
class Log:
    every_steps: int = 10


@dataclass(frozen=True)
class Config:
    lr: float = 0.1
    langs: tuple[str, ...] = ()
    workers: int = 0
    limit: int | None = None
    log: Log = field(default_factory=Log)


IDENTITY = Identity("clip", "student-hash", "data-hash", "emoji", 64)


def test_a_run_may_be_continued_with_other_logging(tmp_path: Path) -> None:
    run_folder.begin(tmp_path / "run", Config(), IDENTITY, resume=False)
    free = Config(workers=3, log=Log(every_steps=1))
    run_folder.begin(tmp_path / "run", free, IDENTITY, resume=True)
    with pytest.raises(UsageError):  # without --resume the same folder is refused
        run_folder.begin(tmp_path / "run", free, IDENTITY, resume=False)


@pytest.mark.parametrize(
    ("config", "identity", "difference"),
    [
        (Config(lr=0.2), IDENTITY, "`lr`: the run has 0.1, now 0.2"),
        (Config(langs=("en",)), IDENTITY, "`langs`: the run has [], now ['en']"),
        (Config(limit=5), IDENTITY, "`limit`: the run has None, now 5"),
        (Config(), replace(IDENTITY, recipe="other"), "`recipe`: the run has 'clip', now 'other'"),
        (Config(), replace(IDENTITY, student="x"), "`student`: the run was started with another one"),
        (
            Config(),
            replace(IDENTITY, knowledge="x"),
            "`knowledge`: the run was started with that of other teachers, captions or augmentations",
        ),
        (
            Config(),
            replace(IDENTITY, data="x", samples=63),
            "`data`: the run has 'emoji' (64 samples), now 'emoji' (63 samples); names or sizes of the files differ",
        ),
    ],
)
def test_a_difference_that_changes_the_weights_is_named(
    tmp_path: Path, config: Config, identity: Identity, difference: str
) -> None:
    run = tmp_path / "run"
    run_folder.begin(run, Config(), IDENTITY, resume=False)
    with pytest.raises(ConfigError) as caught:
        run_folder.begin(run, config, identity, resume=True)
    assert str(caught.value) == (
        f"cannot resume, the run was started otherwise:\n  {difference}\n  in: {run}\n\n"
        "hint: repeat the command of the run, or start a new one with another --out"
    )


def test_a_run_without_its_facts_is_refused(tmp_path: Path) -> None:
    run_folder.begin(tmp_path, Config(), IDENTITY, resume=False)
    (tmp_path / "run.json").unlink()
    with pytest.raises(CheckpointError, match=r"missing file: run\.json"):
        run_folder.begin(tmp_path, Config(), IDENTITY, resume=True)


def test_data_may_move_but_not_change(tiny_emoji: Path, tmp_path: Path) -> None:
    first = open_dataset(tiny_emoji, "train")
    shutil.copytree(tiny_emoji, tmp_path / "moved")
    assert run_folder.data_hash(open_dataset(tmp_path / "moved", "train")) == run_folder.data_hash(first)
    assert run_folder.data_hash(open_dataset(tiny_emoji, "val")) != run_folder.data_hash(first)


def test_the_content_of_a_tokenizer_file_counts(tiny_emoji: Path, tmp_path: Path) -> None:
    dataset, spec = open_dataset(tiny_emoji, "train"), load_spec("nano-s")

    def student(name: str, content: str) -> str:
        (tmp_path / name).write_text(content)
        named = replace(spec, tokenizer=TokenizerSpec("trained", 300, str(tmp_path / name)))
        return run_folder.identify("clip", named, dataset).student

    assert student("a.json", "one") == student("b.json", "one")
    assert student("a.json", "other") != student("b.json", "one")
