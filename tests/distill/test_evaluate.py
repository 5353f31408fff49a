"""Evaluation: hand-computed figures, and a real untrained student against a naive computation."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip_edge.console import Console
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.samples import DataSet
from clip_edge.distill.evaluate import (
    classification,
    embed_classes,
    embed_dataset,
    embed_texts,
    evaluate,
    retrieval,
)
from clip_edge.distill.models.checkpoint import LoadedStudent
from clip_edge.distill.models.spec import ImageSpec, StudentSpec, TextTowerSpec, TokenizerSpec
from clip_edge.distill.models.student import build_student
from clip_edge.distill.models.tokenizers import train_tokenizer
from clip_edge.distill.templates import templates_for
from clip_edge.errors import DataError, UsageError
from clip_edge.images import open_image
from clip_edge.numerics import wilson
from clip_edge.preprocess import normalize, to_pixels

EYE = np.eye(4, dtype=np.float32)


def rows(*values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.fixture(scope="module")
def loaded(tiny_emoji: Path) -> LoadedStudent:
    """A whole student, small and untrained: two real towers and a tokenizer."""
    captions = [text for i in range(16) for text in open_dataset(tiny_emoji).sample(i).captions["en"]]
    tokenizer = train_tokenizer(captions, 400, 16)
    spec = StudentSpec(
        name="tiny",
        embed_dim=32,
        image=ImageSpec(tower="timm:test_vit", size=32, args={"img_size": 32}),
        text=TextTowerSpec(depth=1, width=32, heads=2, context_length=16, causal=False, pad_mask=True),
        tokenizer=TokenizerSpec("trained", 400),
    )
    spec = dataclasses.replace(spec, tokenizer=TokenizerSpec("trained", tokenizer.spec.vocab_size))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = build_student(spec, tokenizer).eval()
    return LoadedStudent(student, spec, tokenizer, spec.image.preprocess(), Path(), {})


@pytest.fixture(scope="module")
def held_out(tiny_emoji: Path) -> DataSet:
    return open_dataset(tiny_emoji, "test")


# --- retrieval by hand ---------------------------------------------------------------------------------------------


def test_any_caption_of_a_picture_is_right_for_it():
    """Two captions each; the second one of picture 0 is nearest to picture 1."""
    images = EYE[:2]
    texts = rows([1, 0, 0, 0], [0.1, 0.9, 0, 0], [0, 1, 0, 0], [0, 0.8, 0, 0])
    found = retrieval(images, texts, np.array([0, 0, 1, 1]))
    assert found["image_to_text"]["recall_at_1"]["value"] == 1.0
    assert found["text_to_image"]["recall_at_1"]["value"] == 0.75
    assert found["text_to_image"]["recall_at_5"]["value"] == 1.0
    assert (found["image_to_text"]["queries"], found["image_to_text"]["candidates"]) == (2, 4)
    assert (found["text_to_image"]["queries"], found["text_to_image"]["candidates"]) == (4, 2)
    assert found["text_to_image"]["median_rank"] == 1.0


def test_a_shared_caption_is_right_for_each_of_its_pictures():
    images = rows([1, 0], [0.9, 0.1], [0, 1])
    texts = rows([1, 0], [1, 0], [0, 1])
    shared = retrieval(images, texts, np.array([0, 1, 2]), ["apple", "apple", "pear"])
    assert shared["image_to_text"]["recall_at_1"]["value"] == 1.0
    assert shared["text_to_image"]["recall_at_1"]["value"] == 1.0
    assert shared["image_to_text"]["candidates"] == 2
    assert shared["text_to_image"]["queries"] == 3  # every caption asks
    unaware = retrieval(images, texts, np.array([0, 1, 2]))  # two equal sentences that nobody said are equal: ties
    assert unaware["image_to_text"]["recall_at_1"]["value"] == pytest.approx(1 / 3)


def test_pictures_without_a_caption_are_only_distractors():
    found = retrieval(EYE, EYE[1:2], np.array([1]))
    assert found["image_to_text"]["queries"] == 1
    assert found["text_to_image"]["candidates"] == 4


def test_a_student_that_says_the_same_about_everything_scores_nothing():
    alike = np.ones((20, 3), dtype=np.float32)
    found = retrieval(alike, alike, np.arange(20))
    for direction in ("text_to_image", "image_to_text"):
        assert [found[direction][f"recall_at_{k}"]["value"] for k in (1, 5, 10)] == [0, 0, 0]


def test_retrieval_needs_captions():
    with pytest.raises(DataError, match="no captions to search with"):
        retrieval(EYE, EYE[:0], np.array([], dtype=np.int64))


# --- classification by hand ----------------------------------------------------------------------------------------


def test_classification_by_hand():
    #              class 0 right    class 0, second   class 1 right   class 2, last
    images = rows([0.9, 0.1, 0, 0], [0.4, 0.5, 0, 0], [0, 1, 0, 0], [0.3, 0.2, 0.1, 0.15])
    found = classification(images, EYE, np.array([0, 0, 1, 2]), ["apple", "pear", "fig", "nut"], list("abcd"))
    assert found["top_1"] == dataclasses.asdict(wilson(2, 4))
    assert found["top_5"]["value"] == 1.0
    assert found["mean_per_class"]["value"] == 0.5  # 1/2, 1, 0
    assert [(row["id"], row["name"], row["images"], row["value"]) for row in found["per_class"]] == [
        ("a", "apple", 2, 0.5),
        ("b", "pear", 1, 1.0),
        ("c", "fig", 1, 0.0),
    ]


def test_classes_of_one_name_are_one_answer():
    found = classification(EYE[:2], rows([1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]), np.array([1, 2]), ["a", "a", "b"])
    assert found["top_1"]["value"] == 1.0
    assert found["classes"] == 2


def test_top_5_of_six_classes():
    scores = np.tile(np.arange(6, dtype=np.float32) / 10, (2, 1))
    found = classification(scores, np.eye(6, dtype=np.float32), np.array([0, 1]), list("abcdef"))
    assert (found["top_1"]["value"], found["top_5"]["value"]) == (0.0, 0.5)


# --- a real student ------------------------------------------------------------------------------------------------


def naive_images(loaded: LoadedStudent, dataset: DataSet) -> np.ndarray:
    """One picture at a time, in the order of the data."""
    found = []
    for i in range(len(dataset)):
        pixels = normalize(to_pixels(open_image(dataset.sample(i).image), loaded.preprocess), loaded.preprocess)
        with torch.no_grad():
            found.append(loaded.student.encode_image(torch.from_numpy(pixels)[None])[0].numpy())
    return np.stack(found)


def test_embeddings_equal_one_at_a_time_whatever_the_batch(loaded: LoadedStudent, held_out: DataSet):
    expected = naive_images(loaded, held_out)
    for batch_size in (5, 64):
        found = embed_dataset(loaded, held_out, batch_size=batch_size)
        np.testing.assert_allclose(found.images, expected, atol=1e-5)
        assert found.captions[3] == held_out.sample(3).captions
        assert found.skipped == ()


def test_retrieval_of_a_real_student_equals_the_naive_one(loaded: LoadedStudent, held_out: DataSet):
    result = evaluate(loaded, held_out, langs=("zh", "en"))
    images = naive_images(loaded, held_out)
    assert list(result["languages"]) == ["zh", "en"]
    for lang, found in result["languages"].items():
        texts = [held_out.sample(i).captions[lang] for i in range(len(held_out))]
        flat = [(i, text) for i, captions in enumerate(texts) for text in captions]
        scores = images @ embed_texts(loaded, [text for _, text in flat]).T  # (N, M)
        for k in (1, 5, 10):
            hits = []
            for column, (_, text) in enumerate(flat):
                right = [i for i, captions in enumerate(texts) if text in captions]
                best = max(scores[i, column] for i in right)
                hits.append(sum(scores[i, column] >= best - 1e-6 for i in range(len(texts)) if i not in right) < k)
            assert found["text_to_image"][f"recall_at_{k}"]["value"] == pytest.approx(np.mean(hits))
    mean = result["mean"]["text_to_image"]["recall_at_10"]["value"]
    each = [found["text_to_image"]["recall_at_10"]["value"] for found in result["languages"].values()]
    assert mean == pytest.approx(np.mean(each))


def test_classification_uses_pictures_of_one_class_and_classes_of_their_kind(
    loaded: LoadedStudent, tiny_emoji: Path, held_out: DataSet
):
    single = [held_out.sample(i).label for i in range(len(held_out))]
    result = evaluate(loaded, held_out, task="classify", langs=("en",))["languages"]["en"]
    assert result["images"] == sum(label is not None for label in single) > 0
    assert {row["id"] for row in result["per_class"]} == {label for label in single if label is not None}
    seen = [entry for entry in held_out.classes if entry.split == "seen"]
    assert result["classes"] == len({entry.names["en"] for entry in seen}) == 20
    unseen = evaluate(loaded, open_dataset(tiny_emoji, "unseen"), task="classify", langs=("en",))["languages"]["en"]
    assert unseen["classes"] == 4


def test_a_class_is_the_mean_of_its_sentences(loaded: LoadedStudent):
    sentences = embed_texts(loaded, [template.replace("{}", "red apple") for template in templates_for("en")])
    mean = sentences.mean(axis=0)
    found = embed_classes(loaded, ["red apple", "pear"], templates_for("en"))
    np.testing.assert_allclose(found[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_a_limit_is_spread_evenly(loaded: LoadedStudent, held_out: DataSet):
    found = embed_dataset(loaded, held_out, limit=4)
    assert list(found.captions) == [held_out.sample(i).captions for i in (0, 4, 8, 12)]
    assert len(embed_dataset(loaded, held_out, limit=999).images) == len(held_out)


def test_the_student_is_left_as_it_was(loaded: LoadedStudent, held_out: DataSet):
    student = loaded.student
    student.train()
    student.image.trunk.eval()  # frozen
    before = [module.training for module in student.modules()]
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            embedded = embed_dataset(loaded, held_out, limit=4).images
        assert [module.training for module in student.modules()] == before
        assert torch.is_grad_enabled()
    finally:
        student.eval()
    np.testing.assert_array_equal(embedded, embed_dataset(loaded, held_out, limit=4).images)  # fp32 all the same


# --- folders of classes, and what goes wrong -----------------------------------------------------------------------


def class_folder(folder: Path) -> Path:
    for name, colour in (("red", "#f00"), ("green", "#0f0"), ("blue", "#00f")):
        (folder / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (40 + i, 40), colour).save(folder / name / f"{i}.png")
    return folder


def test_folders_of_classes_answer_to_any_language(loaded: LoadedStudent, tmp_path: Path):
    dataset = open_dataset(class_folder(tmp_path / "colours"))
    result = evaluate(loaded, dataset, task="classify")["languages"]
    assert list(result) == ["und"]
    assert (result["und"]["images"], result["und"]["classes"]) == (6, 3)
    assert sorted(row["name"] for row in result["und"]["per_class"]) == ["blue", "green", "red"]
    templated = evaluate(loaded, dataset, task="classify", langs=("de",))["languages"]
    assert list(templated) == ["de"]
    own = evaluate(loaded, dataset, task="classify", langs=("de",), templates=("{}",))["languages"]["de"]
    assert own == result["und"]


def test_broken_pictures_are_named_and_left_out(
    loaded: LoadedStudent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = class_folder(tmp_path / "colours")
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "PNG")
    (folder / "red" / "0.png").write_bytes(buffer.getvalue()[:200])
    result = evaluate(loaded, open_dataset(folder), task="classify", console=Console(progress_bars=False))
    assert result["images"] == 5
    assert [entry["key"] for entry in result["skipped"]] == ["red/0.png"]
    assert "the picture cannot be decoded" in result["skipped"][0]["reason"]
    assert capsys.readouterr().err.startswith("warning: 1 of 6 pictures left out; the first is red/0.png: the picture")


def test_nothing_readable_is_an_error(loaded: LoadedStudent, tmp_path: Path):
    folder = class_folder(tmp_path / "colours")
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        evaluate(loaded, open_dataset(folder), task="classify")
    assert str(caught.value) == ("no readable picture in colours\n\nhint: `clip-edge data check` names what is broken")


def test_languages_and_tasks_that_are_not_there(loaded: LoadedStudent, held_out: DataSet, tmp_path: Path):
    with pytest.raises(DataError) as caught:
        evaluate(loaded, held_out, langs=("xx",))
    assert str(caught.value) == f"no captions in language `xx` in {held_out.name}\n\nhint: it has: en, zh"
    with pytest.raises(DataError, match="no class names in language `xx`"):
        evaluate(loaded, held_out, task="classify", langs=("xx",))
    with pytest.raises(UsageError) as wrong:
        evaluate(loaded, held_out, task="retreive")  # type: ignore[arg-type]
    assert str(wrong.value) == "unknown task: `retreive`\n\nhint: did you mean `retrieve`? known: classify, retrieve"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("filepath,title\na.png,black\n")
    with pytest.raises(DataError) as none:
        evaluate(loaded, open_dataset(tmp_path / "t.csv"), task="classify")
    assert str(none.value) == (
        "no classes in t, and classification needs them\n"
        "\nhint: measure retrieval with --task retrieve, or give a folder of classes"
    )
