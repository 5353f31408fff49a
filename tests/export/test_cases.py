"""The hard cases of the golden set: the same every time, and hard in fact."""

from __future__ import annotations

import numpy as np

from clip_edge.export.cases import MAX_SIDE, TEXTS, all_images, all_texts, procedural_images


def test_pictures_are_the_same_every_time() -> None:
    first, second = procedural_images(), procedural_images()
    assert len(first) >= 16
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 for image in first)


def test_pictures_cover_the_odd_shapes() -> None:
    ratios = [image.shape[1] / image.shape[0] for image in procedural_images()]
    assert min(ratios) < 0.1
    assert max(ratios) > 10
    assert any(image.std() == 0 for image in procedural_images())
    assert any((image[..., 0] == image[..., 1]).all() and image.std() > 0 for image in procedural_images())


def test_own_pictures_come_first_and_are_bounded() -> None:
    own = [np.full((2000, 100, 3), 7, np.uint8), np.full((3, 4, 3), 9, np.uint8)]
    images = all_images(own)
    assert images[0].shape[0] == MAX_SIDE
    assert np.array_equal(images[1], own[1])
    assert len(all_images([own[1]] * 50)) == 16 + len(procedural_images())


def test_sentences_come_once_and_cover_what_goes_wrong() -> None:
    assert len(set(TEXTS)) == len(TEXTS) >= 32
    texts = all_texts(["a cat", "a cat", TEXTS[3]])
    assert texts[:2] == ["a cat", TEXTS[3]]
    assert len(texts) == len(set(texts))
    assert len(all_texts([str(i) for i in range(500)])) == 64 + len(TEXTS)
