"""Words, points and boxes to masks over a bundle, with the encoder run once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_edge.errors import BundleError, UsageError
from clip_edge.runtime import Model, Prompt, View, load
from clip_edge.segment import class_scores, label_map


@pytest.fixture
def model(tiny_segment_bundle: Path) -> Model:
    return load(tiny_segment_bundle, threads=1)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def test_labels_are_the_words_that_fit_best(model: Model, picture: Image.Image) -> None:
    view = model.look(picture)
    assert view.feature_map.shape == (1, 16, 4, 4)
    result = model.segment(view, ["a red apple", "a dog"], background=["nothing"])
    assert result.labels.shape == (40, 60)
    assert result.scores.shape == (3, 4, 4)
    assert set(np.unique(result.labels)) <= {-1, 0, 1}
    assert (result.labels[:, :10] == -1).all()
    words = np.concatenate([model.encode_labels(["a red apple", "a dog"]), model.encode_labels(["nothing"])])
    patches = model._segmenter.run("clip_head")({"feature_map": view.feature_map})["patch_embeds"][0]
    assert (result.labels == label_map(class_scores(patches, words), view.frame, background=1)).all()
    assert sum(result.share(index) for index in (-1, 0, 1)) == pytest.approx(1)


def test_a_picture_and_its_view_give_the_same(model: Model, picture: Image.Image) -> None:
    first, second = model.segment(picture, ["a dog"]), model.segment(model.look(picture), ["a dog"])
    assert (first.labels == second.labels).all()
    assert set(model.timings) == {"tokenise", "encode"} or set(model.timings) == {"decode", "preprocess", "encode"}


def test_without_background_every_seen_pixel_has_a_word(model: Model, picture: Image.Image) -> None:
    labels = model.segment(picture, ["a dog"], background=()).labels
    assert (labels[:, 10:50] == 0).all()


def test_refined_labels_come_from_the_decoder(model: Model, picture: Image.Image) -> None:
    result = model.segment(picture, ["a red apple", "a dog"], refined=True)
    assert result.labels.shape == (40, 60)
    assert set(np.unique(result.labels)) <= {-1, 0, 1}


def test_prompts_are_answered_together_as_alone(model: Model, picture: Image.Image) -> None:
    view = model.look(picture)
    prompts = [
        Prompt(points=((30, 20),)),
        Prompt(box=(15, 5, 45, 35)),
        Prompt(points=((20, 20), (40, 30)), inside=(True, False), box=(12, 2, 48, 38)),
    ]
    together = model.masks(view, prompts)
    for prompt, outline in zip(prompts, together, strict=True):
        (alone,) = model.masks(view, [prompt])
        assert outline.mask.shape == (40, 60)
        assert outline.masks.shape == (3, 40, 60)
        assert outline.iou.shape == (3,)
        assert not outline.mask[:, :10].any()
        if len(prompt.points) + 2 * (prompt.box is not None) == 4:  # the same padding
            assert (alone.mask == outline.mask).all()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (
            Prompt(points=((61, 20),)),
            "the point 61,20 lies outside the picture, which has 60 × 40 pixels\n  in: the picture\n"
            "\nhint: count pixels from the top left of the upright picture",
        ),
        (
            Prompt(points=((5, 20),)),
            "the point 5,20 lies outside the square that the model sees: x 10 to 50, y 0 to 40\n  in: the picture\n"
            "\nhint: crop the picture around the thing",
        ),
        (
            Prompt(box=(20, 10, 70, 30)),
            "the box 20,10,70,30 lies outside the picture, which has 60 × 40 pixels\n  in: the picture\n"
            "\nhint: count pixels from the top left of the upright picture",
        ),
        (
            Prompt(box=(20, 10, 20, 30)),
            "the box 20,10,20,30 is empty\n  in: the picture\n\nhint: give left,top,right,bottom in pixels",
        ),
        (
            Prompt(box=(0, 0, 9, 9)),
            "the box 0,0,9,9 lies outside the square that the model sees: x 10 to 50, y 0 to 40\n  in: the picture\n"
            "\nhint: crop the picture around the thing",
        ),
    ],
)
def test_prompts_outside_are_refused(prompt: Prompt, message: str, model: Model, picture: Image.Image) -> None:
    with pytest.raises(UsageError) as caught:
        model.masks(picture, [prompt])
    assert str(caught.value) == message


def test_a_prompt_needs_something() -> None:
    with pytest.raises(UsageError, match=r"^a prompt needs a point or a box$"):
        Prompt()
    with pytest.raises(UsageError, match=r"^`inside` must say it of 1 points; found 2$"):
        Prompt(points=((1, 1),), inside=(True, False))


def test_bundles_without_graphs_are_refused_before_any_work(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError) as caught:
        load(tiny_bundle, threads=1).look("no such picture")
    assert str(caught.value) == (
        "the bundle has no graph `encoder` for target `onnx`\n\nhint: export it again with --target onnx --segment"
    )


def test_the_encoder_runs_once(model: Model, picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    view = model.look(picture)
    assert isinstance(view, View)
    monkeypatch.setitem(model._segmenter._runs, "encoder", None)
    model.segment(view, ["a dog"])
    model.masks(view, [Prompt(points=((30, 20),))])


def test_a_view_is_embedded_as_the_picture_is(model: Model, picture: Image.Image) -> None:
    whole, places = model.embed(model.look(picture))
    (expected,) = model.encode_images([picture])
    np.testing.assert_allclose(whole, expected, atol=2e-5)
    scores = model.segment(picture, ["a dog"], background=()).scores[0]
    (text,) = model.encode_labels(["a dog"])
    np.testing.assert_allclose(np.einsum("d,dhw->hw", text, places), scores, atol=1e-5)
    assert np.array_equal(model.embed(picture)[0], whole)
