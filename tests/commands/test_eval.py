"""`clip-edge eval` from the command line: table, JSON, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from clip_edge.cli import main
from clip_edge.commands.eval import TASKS
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.evaluate import Task
from clip_edge.distill.models.checkpoint import save_student
from clip_edge.distill.models.spec import ImageSpec, StudentSpec, TextTowerSpec, TokenizerSpec
from clip_edge.distill.models.student import build_student
from clip_edge.distill.models.tokenizers import train_tokenizer


@pytest.fixture(scope="module")
def student(tiny_emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained student in a folder."""
    captions = [text for i in range(8) for text in open_dataset(tiny_emoji).sample(i).captions["en"]]
    tokenizer = train_tokenizer(captions, 300, 16)
    spec = StudentSpec(
        name="tiny",
        embed_dim=16,
        image=ImageSpec(tower="timm:test_vit", size=32, args={"img_size": 32}),
        text=TextTowerSpec(depth=1, width=32, heads=2, context_length=16, causal=False, pad_mask=True),
        tokenizer=TokenizerSpec("trained", tokenizer.spec.vocab_size),
    )
    folder = tmp_path_factory.mktemp("student")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_student(folder, build_student(spec, tokenizer), tokenizer, recipe_toml="", metrics=None, provenance={})
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["eval", *map(str, words), "--no-progress"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def parsed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    code, out, err = run(capsys, *words, "--json", "-")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_tasks_are_those_of_the_library():
    assert (*get_args(Task), "segment") == TASKS


def test_retrieval_as_a_table(student: Path, tiny_emoji: Path, capsys: pytest.CaptureFixture[str]):
    code, out, err = run(capsys, student, "--data", tiny_emoji)
    assert (code, err) == (0, "")
    lines = [" ".join(line.translate(str.maketrans("│┃", "  ")).split()) for line in out.splitlines()]
    assert lines[0] == "openmoji-scenes, split test, 16 pictures"
    assert lines[1] == "search language queries candidates R@1 R@5 R@10 median rank"
    rows = [line for line in lines if line.startswith(("text to image", "image to text"))]
    assert [row.split()[3] for row in rows] == ["en", "zh", "mean", "en", "zh", "mean"]


def test_retrieval_as_json(student: Path, tiny_emoji: Path, capsys: pytest.CaptureFixture[str]):
    found = parsed(capsys, student, "--data", tiny_emoji, "--lang", "zh", "--split", "val", "--limit", "8")
    assert (found["model"], found["task"], found["split"], found["images"]) == (str(student), "retrieve", "val", 8)
    assert list(found["languages"]) == ["zh"]
    recall = found["languages"]["zh"]["text_to_image"]["recall_at_10"]
    assert 0 <= recall["low"] <= recall["value"] <= recall["high"] <= 1
    assert found["mean"]["text_to_image"]["recall_at_10"]["value"] == recall["value"]


def test_segmentation_as_a_table_and_as_json(tiny_student: Path, tiny_emoji: Path, capsys: pytest.CaptureFixture[str]):
    words = (tiny_student, "--data", tiny_emoji, "--task", "segment", "--limit", "4")
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert "4 pictures, 20 names" in out
    assert "by name, CLIP head" in out
    found = parsed(capsys, *words, "--lang", "zh")
    assert (found["task"], found["lang"], found["images"], found["both_heads"]) == ("segment", "zh", 4, None)


def test_segmentation_takes_one_language(tiny_student: Path, tiny_emoji: Path, capsys: pytest.CaptureFixture[str]):
    code, _, err = run(capsys, tiny_student, "--data", tiny_emoji, "--task", "segment", "--lang", "en,zh")
    assert (code, err.strip()) == (2, "error: --task segment takes one language; found en,zh")


def test_classification(student: Path, tiny_emoji: Path, capsys: pytest.CaptureFixture[str]):
    words = (student, "--data", tiny_emoji, "--split", "train", "--task", "classify")
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "weakest classes, en: " in out
    assert "weakest classes, zh: " in out
    found = parsed(capsys, *words)
    assert list(found["languages"]) == ["en", "zh"]  # the classes have names in twelve more
    for figures in found["languages"].values():
        assert figures["classes"] > 5
        assert figures["top_1"]["value"] <= figures["top_5"]["value"]
    assert list(parsed(capsys, *words, "--lang", "tr")["languages"]) == ["tr"]
    own = parsed(capsys, *words, "--lang", "en", "--template", "{}", "--template", "a picture of {}")
    assert own["languages"]["en"]["images"] == found["languages"]["en"]["images"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--limit", "0"), "--limit must be at least 1; found 0"),
        (("--batch", "-3"), "--batch must be at least 1; found -3"),
        (("--split", "tset"), "unknown split: `tset`\n\nhint: did you mean `test`? known: test, train, unseen, val"),
        (("--lang", "en,xx"), "no captions in language `xx` in openmoji-scenes\n\nhint: it has: en, zh"),
        (
            ("--task", "retreive"),
            "unknown task: `retreive`\n\nhint: did you mean `retrieve`? known: classify, retrieve, segment",
        ),
        (
            ("--task", "classify", "--template", "a photo"),
            "a template needs exactly one {} for the class name; found `a photo`\n"
            '\nhint: for example: --template "a photo of a {}"',
        ),
    ],
)
def test_what_is_refused(
    student: Path, tiny_emoji: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
):
    code, out, err = run(capsys, student, "--data", tiny_emoji, *words)
    assert (code, out, err) == (2, "", f"error: {message}\n")


def test_a_missing_student(tiny_emoji: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, _, err = run(capsys, tmp_path / "none", "--data", tiny_emoji)
    assert code == 2
    assert (
        err == f"error: no such folder: {tmp_path / 'none'}\n\nhint: name the `student` folder inside a finished run\n"
    )


def test_missing_data(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, _, err = run(capsys, student, "--data", tmp_path / "none")
    assert code == 2
    assert err.startswith(f"error: no such data set: {tmp_path / 'none'}\n")


@pytest.fixture
def suite(tiny_emoji: Path, tmp_path: Path) -> Path:
    """The built-in scenes by their captions and by their emoji, and two folders with names in two languages."""
    for i, name in enumerate(("cat", "red_apple")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for k in range(2):
            colour = np.random.default_rng(2 * i + k).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(colour).save(tmp_path / "pets" / name / f"{k}.png")
    (tmp_path / "names.toml").write_text(
        'cat = { en = "cat", zh = "猫" }\nred_apple = { en = "red apple", zh = "红苹果" }\n', encoding="utf-8"
    )
    tables = (
        f'path = "{tiny_emoji}"\nmetric = "text_to_image"\nname = "scenes"\nsplit = "val"',
        f'path = "{tiny_emoji}"\nmetric = "mean_per_class"\nname = "emoji"\nsplit = "train"',
        'path = "pets"\nnames = "names.toml"',
    )
    file = tmp_path / "suite.toml"
    file.write_text("".join(f"[[data]]\n{table}\n\n" for table in tables))
    return file


def test_a_suite_measures_each_data_set_by_its_metric(
    student: Path, tiny_emoji: Path, suite: Path, capsys: pytest.CaptureFixture[str]
):
    found = parsed(capsys, student, "--suite", suite, "--lang", "en,zh")
    assert [row["metric"] for row in found["data"]] == ["text_to_image", "mean_per_class", "top_1"]
    alone = parsed(capsys, student, "--data", tiny_emoji, "--task", "classify", "--split", "train")
    for lang in ("en", "zh"):
        shares = [row["languages"][lang]["value"] for row in found["data"]]
        assert shares[1] == alone["languages"][lang]["mean_per_class"]["value"]
        assert found["languages"][lang]["value"] == pytest.approx(sum(shares) / 3)
    assert found["mean"]["value"] == pytest.approx(sum(found["languages"][lang]["value"] for lang in ("en", "zh")) / 2)
    assert found["data"][2]["images"] == 4


def test_a_suite_as_a_table(student: Path, suite: Path, capsys: pytest.CaptureFixture[str]):
    code, out, err = run(capsys, student, "--suite", suite, "--limit", "16")
    assert (code, err) == (0, "")
    lines = [" ".join(line.translate(str.maketrans("│┃", "  ")).split()) for line in out.splitlines()]
    assert lines[0] == f"suite {suite}"
    assert lines[1] == "data metric pictures en zh mean"
    assert [line.split()[0] for line in lines[3:]] == ["scenes", "emoji", "pets", "mean"]


def test_what_is_refused_of_a_suite(student: Path, suite: Path, capsys: pytest.CaptureFixture[str]):
    code, _, err = run(capsys, student)
    assert (code, err) == (
        2,
        "error: expected either --data or --suite\n\nhint: --data DATA, or --suite F.toml for several\n",
    )
    code, _, err = run(capsys, student, "--suite", suite, "--split", "val")
    assert (code, err) == (
        2,
        "error: --split and --task do not go with --suite\n\nhint: its file says `split` and `metric`\n",
    )
    names = suite.with_name("names.toml")
    names.write_text('dog = { en = "dog" }\n')
    code, _, err = run(capsys, student, "--suite", suite, "--lang", "en")
    assert (code, err) == (
        2,
        f"error: names for `dog`, which is no class of pets\n  in: {names}\n\nhint: its classes: cat, red_apple\n",
    )
    suite.write_text("data = []\n")
    code, _, err = run(capsys, student, "--suite", suite)
    assert code == 2
    assert "expected at least one table `[[data]]`; found none" in err


def test_a_bundle_finds_and_outlines_as_its_student(
    tiny_merged: Path, tiny_segment_bundle: Path, tiny_emoji: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Semantic and prompted IoU through the runtime: the same pixels but for those that lie on an edge."""
    words = ("--data", tiny_emoji, "--task", "segment", "--limit", "4", "--json", "-")
    answers = []
    for model in (tiny_merged, tiny_segment_bundle):
        code, out, _ = run(capsys, model, *words)
        assert code == 0
        answers.append(json.loads(out))
    student, bundle = answers
    assert student["map"] == bundle["map"] == [4, 4]
    for way in ("clip_head", "both_heads"):
        assert bundle[way]["miou"] == pytest.approx(student[way]["miou"], abs=2e-3)
        assert bundle[way]["background_iou"] == pytest.approx(student[way]["background_iou"], abs=2e-3)
    for kind in ("box", "point"):
        assert bundle["prompted"][kind]["iou"] == pytest.approx(student["prompted"][kind]["iou"], abs=2e-3)


def test_a_bundle_without_graphs_says_how_to_get_them(
    tiny_bundle: Path, tiny_emoji: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, tiny_bundle, "--data", tiny_emoji, "--task", "segment")
    assert code == 1
    assert "the bundle has no graph `encoder` for target `onnx`" in err
    assert "hint: export it again with --target onnx --segment" in err
