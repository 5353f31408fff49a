"""The dc-clip recipe on real scenes: stages follow each other, resume, and leave alone what is not theirs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clip_edge.cli import main
from clip_edge.config import load_config
from clip_edge.console import Console
from clip_edge.distill.data.augment import AugmentSpec
from clip_edge.distill.data.languages import balanced_batches
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.losses.features import embedding_loss, map_loss, token_loss
from clip_edge.distill.metrics import read_metrics
from clip_edge.distill.models.adapted import AdaptedStudent
from clip_edge.distill.models.checkpoint import load_student
from clip_edge.distill.recipes import RECIPES, clip, dc_clip
from clip_edge.distill.recipes.dc_clip import Config, FeatureSettings
from clip_edge.distill.settings import EvaluationSettings, LogSettings, OptimizerSettings, ScheduleSettings
from clip_edge.distill.taught import Wanted, ask, inner_sizes
from clip_edge.distill.teacher import Teacher, load_teacher
from clip_edge.errors import ConfigError, DataError

TEXT = {"depth": 1, "width": 32, "heads": 2, "context_length": 24, "causal": False, "pad_mask": True}
TINY: dict[str, Any] = {
    "name": "tiny",
    "embed_dim": 32,
    "image": {
        "tower": "timm:resnet10t",
        "args": {"channels": [8, 16, 16, 32], "stem_width": 8},
        "size": 32,
    },
    "text": TEXT,
    "tokenizer": {"kind": "trained", "vocab_size": 400},
}
TEACHER = TINY | {
    "name": "teacher",
    "embed_dim": 48,
    "image": {
        "tower": "timm:vit_tiny_patch16_224",
        "args": {"img_size": 48, "patch_size": 8, "embed_dim": 40, "depth": 1, "num_heads": 2},
        "size": 48,
    },
    "text": TEXT | {"width": 64, "depth": 2},
}
LOOP: dict[str, Any] = {
    "steps": 6,
    "batch_size": 16,
    "workers": 0,
    "langs": ("en", "zh"),
    "device": "cpu",
    "optimizer": OptimizerSettings(lr=2e-3),
    "schedule": ScheduleSettings(warmup_steps=2),
    "evaluation": EvaluationSettings(split=""),
    "log": LogSettings(every_steps=1, tensorboard=False, checkpoint_every_steps=2),
}
NOTHING = FeatureSettings(inner=0, embedding=0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # sums in the same order whatever the machine


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("student"), TINY)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tiny_emoji: Path) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    return clip.run(clip.Config(**LOOP), data=tiny_emoji, student=write(folder, TEACHER), out=folder / "run")


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, tiny_emoji: Path, student: Path, teacher: Path) -> Path:
    out = tmp_path_factory.mktemp("features") / "run"
    dc_clip.run(Config(teacher=str(teacher), **LOOP), data=tiny_emoji, student=student, out=out)
    return out


def write(folder: Path, spec: dict[str, Any]) -> Path:
    path = folder / f"{spec['name']}.json"
    path.write_text(json.dumps(spec))
    return path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "model.safetensors")


def changed(a: Path, b: Path) -> set[str]:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


def test_the_commented_defaults_are_those_of_the_dataclass() -> None:
    assert load_config(Config, [RECIPES["dc-clip"].defaults]) == Config()


def test_every_term_of_stage_1_falls(features: Path) -> None:
    rows = read_metrics(features / "metrics.jsonl")
    for name in ("image_embedding_loss", "text_embedding_loss", "image_map_loss", "text_words_loss"):
        assert rows[-1][name] < rows[0][name], name


def test_the_student_is_exported_without_adapters(features: Path, teacher: Path) -> None:
    assert {name.partition(".")[0] for name in weights(features)} == {"image", "text", "logit_scale"}
    info = load_student(features).info
    assert info["provenance"]["recipe"] == "dc-clip"
    assert info["provenance"]["teachers"][0]["source"] == str(teacher)


def test_the_licence_of_the_teacher_goes_with_the_student_through_both_stages(
    tiny_emoji: Path, student: Path, teacher: Path, tmp_path: Path
) -> None:
    path, licence = tmp_path / "teacher", {"applies_to": "weights", "name": "for research", "research_only": True}
    shutil.copytree(teacher, path)
    info = json.loads((path / "model.json").read_text())
    (path / "model.json").write_text(json.dumps(info | {"licences": [licence], "research_only": True}))
    first = replace(Config(teacher=str(path), **LOOP), steps=1)
    dc_clip.run(first, data=tiny_emoji, student=student, out=tmp_path / "one")
    then = replace(Config(stage="alignment", start=str(tmp_path / "one"), **LOOP), steps=1)
    found = load_student(dc_clip.run(then, data=tiny_emoji, student=student, out=tmp_path / "two")).info
    assert found["research_only"]
    assert "for research" in found["licences"][0]["name"]


def test_each_tower_learns_alone(
    tiny_emoji: Path, student: Path, teacher: Path, features: Path, tmp_path: Path
) -> None:
    base = Config(teacher=str(teacher), start=str(features), **LOOP)
    dc_clip.run(replace(base, text=NOTHING), data=tiny_emoji, student=student, out=tmp_path / "image")
    assert {name.partition(".")[0] for name in changed(features, tmp_path / "image")} == {"image"}
    then = replace(base, start=str(tmp_path / "image"), image=NOTHING)
    dc_clip.run(then, data=tiny_emoji, student=student, out=tmp_path / "text")
    assert {name.partition(".")[0] for name in changed(tmp_path / "image", tmp_path / "text")} == {"text"}


def test_stage_2_moves_towers_less_than_projections(
    tiny_emoji: Path, student: Path, features: Path, tmp_path: Path
) -> None:
    config = Config(stage="alignment", start=str(features), tower_lr_ratio=1e-3, **LOOP)
    dc_clip.run(config, data=tiny_emoji, student=student, out=tmp_path / "run")
    before, after = weights(features), weights(tmp_path / "run")
    table, projection = (
        float((after[name] - before[name]).abs().max())
        for name in ("text.token_embedding.weight", "text.projection.weight")
    )
    assert 0 < table < projection / 10


class KilledError(Exception):
    """Stands for the end of the process."""


class Dying(Console):
    """A console whose evaluation report at a step is the last thing that happens."""

    def say(self, text: str) -> None:
        if text.startswith("step 3:"):
            raise KilledError


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    """A file of sentences in a language that the pairs do not have."""
    (tmp_path / "ru.txt").write_text("красное яблоко\nдва кота\nжёлтый банан и груша\n")
    return tmp_path / "ru.txt"


@pytest.mark.parametrize("stage", ["features", "text", "alignment"])
def test_killed_and_resumed_is_uninterrupted(
    stage: Any, tiny_emoji: Path, student: Path, teacher: Path, features: Path, sentences: Path, tmp_path: Path
) -> None:
    source: dict[str, Any] = {"teacher": str(teacher)} if stage != "alignment" else {"start": str(features)}
    if stage == "text":
        source, stage = source | {"text_corpora": (str(sentences),)}, "features"
    watched = LOOP | {"evaluation": EvaluationSettings(every_steps=3, stop_at_chance_after=0)}
    config = Config(stage=stage, **source, **watched)
    dc_clip.run(config, data=tiny_emoji, student=student, out=tmp_path / "whole")
    dying = Dying(quiet=True, progress_bars=False)
    with pytest.raises(KilledError):
        dc_clip.run(config, data=tiny_emoji, student=student, out=tmp_path / "killed", console=dying)
    dc_clip.run(config, data=tiny_emoji, student=student, out=tmp_path / "killed", resume=True)
    assert not changed(tmp_path / "whole", tmp_path / "killed")


def test_features_in_chunks_train_alike(tiny_emoji: Path, teacher: Path, tmp_path: Path) -> None:
    student = write(tmp_path, TINY | {"image": TEACHER["image"] | {"size": 48}})  # without BatchNorm
    base = replace(Config(teacher=str(teacher), **LOOP), steps=2)
    found = []
    for chunk_size in (0, 5):
        out = tmp_path / str(chunk_size)
        dc_clip.run(replace(base, chunk_size=chunk_size), data=tiny_emoji, student=student, out=out)
        rows = read_metrics(out / "metrics.jsonl")
        found.append([value for row in rows for name, value in sorted(row.items()) if name.endswith("_loss")])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_sentences_of_files_join_the_lessons(
    tiny_emoji: Path, student: Path, teacher: Path, sentences: Path, tmp_path: Path
) -> None:
    base = Config(teacher=str(teacher), **LOOP)
    dc_clip.run(base, data=tiny_emoji, student=student, out=tmp_path / "plain")
    more = replace(base, text_corpora=(str(sentences),))
    dc_clip.run(more, data=tiny_emoji, student=student, out=tmp_path / "more")
    assert "text.token_embedding.weight" in changed(tmp_path / "plain", tmp_path / "more")
    (noted,) = load_student(tmp_path / "more").info["provenance"]["text_corpora"]
    assert (noted["name"], noted["sentences"]) == ("ru.txt", 3)
    sentences.write_text("другое\n")
    with pytest.raises(ConfigError, match="`knowledge`"):
        dc_clip.run(more, data=tiny_emoji, student=student, out=tmp_path / "more", resume=True)


@pytest.mark.parametrize(
    ("data", "what"),
    [(b"", "no sentence"), (b"\xff", "not UTF-8"), (b"x" * 10_001, "line 1 has"), (None, "missing file")],
)
def test_files_of_sentences_are_read_before_anything_is_written(
    data: bytes | None, what: str, tiny_emoji: Path, student: Path, teacher: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "lines.txt", tmp_path / "run"
    if data is not None:
        path.write_bytes(data)
    config = Config(teacher=str(teacher), text_corpora=(str(path),), **LOOP)
    with pytest.raises(DataError, match=what):
        dc_clip.run(config, data=tiny_emoji, student=student, out=out)
    with pytest.raises(DataError, match=what):
        dc_clip.check(config, open_dataset(tiny_emoji, "train"))
    assert not out.exists()


@pytest.mark.slow
def test_two_processes_train_like_one(tiny_emoji: Path, teacher: Path, sentences: Path, tmp_path: Path) -> None:
    student = write(tmp_path, TINY | {"image": TEACHER["image"]})  # BatchNorm would see half the batch in each
    words = ["distill", "dc-clip", "--data", str(tiny_emoji), "--student", str(student), "-q"]
    overrides = ["steps=3", "workers=0", "batch_size=16", "device=cpu", f"teacher={teacher}"]
    overrides += ["log.every_steps=1", "log.tensorboard=false", "evaluation.split="]
    overrides.append(f'text_corpora=["{sentences}"]')
    words += [word for one in overrides for word in ("--set", one)]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "clip_edge.cli"]
    command = [sys.executable, "-m", *launcher, *words, "--out", str(tmp_path / "two")]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    one, two = (weights(tmp_path / name) for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-3, rtol=1e-3)


def shown(run: Path) -> set[str]:
    return {name for name in read_metrics(run / "metrics.jsonl")[-1] if name.endswith("_loss")}


def test_an_open_clip_teacher_of_the_same_tokens_shows_all_its_inside(
    tiny_emoji: Path, tiny_open_clip: Path, tmp_path: Path
) -> None:
    spec = TINY | {"text": TEXT | {"context_length": 32}, "tokenizer": {"kind": "clip", "vocab_size": 49408}}
    base = replace(Config(teacher=f"open_clip:{tiny_open_clip}", **LOOP), steps=1)
    dc_clip.run(base, data=tiny_emoji, student=write(tmp_path, spec), out=tmp_path / "same")
    assert shown(tmp_path / "same") == set(dc_clip.TERMS)
    dc_clip.run(base, data=tiny_emoji, student=write(tmp_path, TINY), out=tmp_path / "other")
    assert shown(tmp_path / "other") == set(dc_clip.TERMS) - {"text_words_loss"}


@pytest.mark.parametrize("kind", ["hf:altclip", "hf:chinese_clip", "open_clip:xlmr"])
def test_multilingual_teachers_of_other_libraries_show_their_maps(
    kind: str, tiny_emoji: Path, student: Path, foreign_model: Callable[[str], Path], tmp_path: Path
) -> None:
    teacher = f"{kind.partition(':')[0]}:{foreign_model(kind)}"
    dc_clip.run(
        replace(Config(teacher=teacher, **LOOP), steps=2), data=tiny_emoji, student=student, out=tmp_path / "run"
    )
    assert shown(tmp_path / "run") == {"image_map_loss", "image_embedding_loss", "text_embedding_loss"}


@pytest.mark.parametrize("kind", ["hf:altclip", "hf:chinese_clip", "open_clip:xlmr"])
def test_a_student_with_the_vocabulary_of_its_teacher_learns_token_by_token(
    kind: str, tiny_emoji: Path, foreign_model: Callable[[str], Path], tmp_path: Path
) -> None:
    library, folder = kind.partition(":")[0], foreign_model(kind)
    theirs = {"kind": "trained", "vocab_size": 300, "file": str(folder / "tokenizer.json")}
    theirs |= {"clean": "whitespace"} if library == "open_clip" else {}
    student = write(tmp_path, TINY | {"tokenizer": theirs})
    base = replace(Config(**LOOP), steps=2)
    first = replace(base, teacher=f"{library}:{folder}")
    dc_clip.run(first, data=tiny_emoji, student=student, out=tmp_path / "features")
    assert shown(tmp_path / "features") == set(dc_clip.TERMS)
    second = replace(base, stage="alignment", start=str(tmp_path / "features"))
    dc_clip.run(second, data=tiny_emoji, student=student, out=tmp_path / "aligned")
    assert load_student(tmp_path / "aligned").tokenizer.spec == load_student(tmp_path / "features").tokenizer.spec


def test_a_student_that_shows_no_maps_learns_from_embeddings(
    tiny_emoji: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clip_edge.distill.taught.shows_maps", lambda student: False)
    out = tmp_path / "run"
    dc_clip.run(
        replace(Config(teacher=str(teacher), **LOOP), steps=1),
        data=tiny_emoji,
        student=write(tmp_path, TINY),
        out=out,
    )
    assert shown(out) == set(dc_clip.TERMS) - {"image_map_loss"}


def test_a_student_that_is_its_teacher_has_nothing_to_learn(tiny_emoji: Path, teacher: Path) -> None:
    """The whole way of a batch, with adapters that change nothing: every distance is 0, and so is its gradient."""
    taught, loaded = load_teacher(str(teacher), device="cpu"), load_student(teacher)
    dataset = open_dataset(tiny_emoji, "train")
    channels, width = inner_sizes(taught, loaded)
    model = AdaptedStudent(loaded.student, map_channels=channels, word_width=width, dim=taught.info.dim).eval()
    assert isinstance(model.maps, torch.nn.Conv2d)
    assert isinstance(model.words, torch.nn.Linear)
    with torch.no_grad():
        model.maps.weight.copy_(torch.eye(channels)[:, :, None, None])
        model.words.weight.copy_(torch.eye(width))
        model.maps.bias.zero_()  # type: ignore[union-attr]
        model.words.bias.zero_()
    drawn = balanced_batches(
        dataset,
        spec=loaded.preprocess,
        view=taught.info.preprocess,
        tokenizer=loaded.tokenizer,
        augment=AugmentSpec(),
        langs=("en", "zh"),
        batch_size=8,
        seed=0,
        on_problem=lambda problem: None,
        rank=0,
        world_size=1,
        start_step=0,
        workers=0,
    )
    batch = next(ask(taught, drawn, Wanted()))
    (image, level), (text, words) = model.see(batch.images), model.read(batch.tokens)
    assert level is not None
    assert words is not None
    reached = loaded.student.text.until_eos(batch.tokens)
    losses = (
        embedding_loss(image, batch.teacher_image),
        map_loss(level, batch.teacher_map),
        embedding_loss(text, batch.teacher_text),
        token_loss(words, batch.teacher_words, reached),
    )
    for loss in losses:
        torch.testing.assert_close(loss, torch.zeros(8), atol=1e-9, rtol=0)
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or float(p.grad.abs().max()) < 1e-4 for p in model.parameters())


def test_padding_of_a_whole_student_contributes_nothing(teacher: Path) -> None:
    """Whatever ids stand behind the end of a sentence, and however many, features and embedding stay the same."""
    loaded = load_student(teacher)
    model = AdaptedStudent(loaded.student, map_channels=0, word_width=7, dim=loaded.spec.embed_dim).eval()
    tokens = torch.from_numpy(loaded.tokenizer(["a", "two red apples", "一只猫"]))
    reached = loaded.student.text.until_eos(tokens)
    assert not reached.all()
    other = torch.where(reached, tokens, torch.full_like(tokens, 5))
    short = tokens[:, : int(reached.sum(1).max())]
    with torch.no_grad():
        (text, words), (text_2, words_2), (text_3, _) = model.read(tokens), model.read(other), model.read(short)
    assert words is not None
    assert words_2 is not None
    torch.testing.assert_close(text_2, text, rtol=0, atol=0)
    torch.testing.assert_close(words_2[reached], words[reached], rtol=0, atol=0)
    torch.testing.assert_close(text_3, text, atol=1e-6, rtol=0)


def test_a_tower_that_is_left_alone_computes_nothing(
    tiny_emoji: Path, student: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the text tower is left alone")

    monkeypatch.setattr(AdaptedStudent, "read", refuse)
    monkeypatch.setattr(Teacher, "text_features", lambda self, texts: (self.encode_texts(texts), None))
    config = replace(Config(teacher=str(teacher), text=NOTHING, **LOOP), steps=1)
    dc_clip.run(config, data=tiny_emoji, student=student, out=tmp_path / "run")
    assert shown(tmp_path / "run") == {"image_embedding_loss", "image_map_loss"}


def test_another_tokenizer_at_the_start_is_refused_before_anything_is_written(
    tiny_emoji: Path, student: Path, teacher: Path, features: Path, tmp_path: Path
) -> None:
    english = LOOP | {"langs": ("en",)}
    for config in (
        Config(stage="alignment", start=str(features), **english),
        Config(teacher=str(teacher), start=str(features), **english),
    ):
        with pytest.raises(ConfigError, match="another tokenizer"):
            dc_clip.run(config, data=tiny_emoji, student=student, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_adapters_have_the_sizes_of_the_teacher(features: Path) -> None:
    loaded = load_student(features)
    model = AdaptedStudent(loaded.student, map_channels=7, word_width=5, dim=32).eval()
    with torch.no_grad():
        image, level = model.see(torch.zeros(2, 3, 32, 32))
        text, words = model.read(torch.from_numpy(loaded.tokenizer(["a", "b c"])))
        torch.testing.assert_close(image, loaded.student.eval().encode_image(torch.zeros(2, 3, 32, 32)))
    assert level is not None
    assert words is not None
    assert level.shape[:2] == (2, 7)
    assert words.shape == (2, 24, 5)
    assert text.shape == (2, 32)


def test_a_student_of_the_first_levels_of_a_trunk_shows_its_last_map(
    tiny_emoji: Path, teacher: Path, tmp_path: Path
) -> None:
    spec = TINY | {"image": TINY["image"] | {"levels": 3}}
    base = replace(Config(teacher=str(teacher), **LOOP), steps=1)
    dc_clip.run(base, data=tiny_emoji, student=write(tmp_path, spec), out=tmp_path / "run")
    assert shown(tmp_path / "run") == set(dc_clip.TERMS)


def test_a_dry_run_misses_the_teacher(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    words = ["distill", "dc-clip", "--data", str(tiny_emoji), "--student", str(student), "--out", str(tmp_path / "r")]
    assert main([*words, "-q", "--dry-run", "--set", "batch_size=16"]) == 2
    assert main([*words, "-q", "--dry-run", "--set", "batch_size=16", "--set", "teacher=nowhere"]) == 2


def test_what_does_not_belong_together_is_refused(
    tiny_emoji: Path, student: Path, features: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="starts from a student"):
        dc_clip.run(Config(stage="alignment", **LOOP), data=tiny_emoji, student=student, out=tmp_path / "a")
    other = write(tmp_path, TINY | {"name": "other", "embed_dim": 16})
    with pytest.raises(ConfigError, match="another student"):
        dc_clip.run(
            Config(stage="alignment", start=str(features), **LOOP), data=tiny_emoji, student=other, out=tmp_path / "b"
        )
    with pytest.raises(ValueError, match="nothing would be trained"):
        Config(teacher="t", image=NOTHING, text=NOTHING)
    with pytest.raises(ValueError, match="`text_corpora` is for the text tower"):
        Config(teacher="t", text=NOTHING, text_corpora=("a.txt",))
    with pytest.raises(ValueError, match="`text_corpora` is for the text tower"):
        Config(stage="alignment", start="s", text_corpora=("a.txt",))
    with pytest.raises(ValueError, match="stop_at_chance_after"):
        Config(teacher="t", image=NOTHING)
