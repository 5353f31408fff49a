"""Labels from scores, in numpy: geometry, background, refined edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_edge.preprocess import PreprocessSpec
from clip_edge.segment import (
    NOTHING,
    class_scores,
    components,
    frame_of,
    label_map,
    mask_iou,
    refine,
    resample,
    seen,
    to_picture,
)


def halves(size: int = 4) -> np.ndarray:
    """(2, h, w) scores: the left half is the first word, the right half the second."""
    scores = np.zeros((2, size, size), np.float32)
    scores[0, :, : size // 2] = 1
    scores[1, :, size // 2 :] = 1
    return scores


def test_scores_are_cosines() -> None:
    patches = np.zeros((3, 1, 2), np.float32)
    patches[0, 0, 0] = patches[1, 0, 1] = 1
    texts = np.array([[1, 0, 0], [0.6, 0.8, 0]], np.float32)
    assert class_scores(patches, texts) == pytest.approx(np.array([[[1, 0]], [[0.6, 0.8]]], np.float32))


@pytest.mark.parametrize(
    ("resize", "size", "box"),
    [
        ("squash", (40, 20), (0, 0, 40, 20)),
        ("shortest", (40, 20), (10, 0, 30, 20)),
        ("shortest", (6, 9), (0, 1.5, 6, 7.5)),
    ],
)
def test_the_frame_is_what_the_model_sees(resize: str, size: tuple[int, int], box: tuple[float, ...]) -> None:
    frame = frame_of(*size, PreprocessSpec(32, resize=resize))  # type: ignore[arg-type]
    assert frame.box == box
    assert frame.to_input(*box[:2]) == (0, 0)
    assert frame.to_input(*box[2:]) == (1, 1)
    assert not frame.sees(box[0] - 1, box[1])


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 40), st.integers(1, 40))
def test_resampling_stays_within_the_values(h: int, w: int, height: int, width: int) -> None:
    maps = np.random.default_rng(h * 7 + w).normal(size=(2, h, w)).astype(np.float32)
    found = resample(maps, height, width)
    assert found.shape == (2, height, width)
    assert found.min() >= maps.min() - 1e-5
    assert found.max() <= maps.max() + 1e-5
    assert resample(maps, h, w) == pytest.approx(maps, abs=1e-5)


def test_resampling_equals_torchs() -> None:
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], (23, 31), mode="bilinear")[0].numpy()
    assert resample(maps, 23, 31) == pytest.approx(expected, abs=1e-5)


def test_every_pixel_gets_its_word_and_none_outside() -> None:
    labels = label_map(halves(), frame_of(16, 8, PreprocessSpec(32)))
    assert labels.shape == (8, 16)
    assert set(np.unique(labels[:, :4])) == set(np.unique(labels[:, 12:])) == {NOTHING}
    assert set(np.unique(labels[:, 4:8])) == {0}
    assert set(np.unique(labels[:, 8:12])) == {1}


def test_words_of_the_background_stand_for_nothing() -> None:
    labels = label_map(halves(), frame_of(8, 8, PreprocessSpec(32)), background=1)
    assert set(np.unique(labels[:, :4])) == {0}
    assert set(np.unique(labels[:, 4:])) == {NOTHING}


def test_a_map_is_put_where_the_model_looked() -> None:
    frame = frame_of(12, 4, PreprocessSpec(32))
    found = to_picture(np.ones((1, 2, 2), np.float32), frame)
    assert found.shape == (1, 4, 12)
    assert seen(frame).sum() == 16


def test_the_decoder_draws_the_edges() -> None:
    """A region of one half; the decoder answers with a smaller mask, which takes its place."""
    asked = []

    def decode(points: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append((points, labels))
        logits = np.full((len(points), 3, 16, 16), -1, np.float32)
        logits[:, 1, 2:14, 1:7] = 1
        return logits, np.zeros((len(points), 3), np.float32)

    labels = refine(halves(), decode, frame_of(16, 16, PreprocessSpec(32)), background=1)
    ((points, kinds),) = asked
    assert points.tolist()[0][:2] == [[0, 0], [0.5, 1]]
    assert kinds.tolist() == [[2, 3, 1]]
    assert (labels[2:14, 1:7] == 0).all()
    assert (labels == 0).sum() == 12 * 6


def test_a_mask_of_something_else_is_not_taken() -> None:
    def decode(points: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = np.full((len(points), 3, 16, 16), -1, np.float32)
        logits[:, :, :, 12:] = 1
        return logits, np.zeros((len(points), 3), np.float32)

    labels = refine(halves(), decode, frame_of(16, 16, PreprocessSpec(32)), background=1)
    assert (labels[:, :8] == 0).all()
    assert (labels[:, 8:] == NOTHING).all()


def test_components_and_overlap() -> None:
    mask = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]], bool)
    assert [part.sum() for part in components(mask)] == [2, 2]
    assert components(np.zeros((2, 2), bool)) == []
    assert mask_iou(mask, mask) == 1
    assert mask_iou(mask, ~mask) == 0
    assert mask_iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 1
