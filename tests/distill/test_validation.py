"""When retrieval counts as guessing."""

from __future__ import annotations

import numpy as np
import pytest

from clip_edge.distill.evaluate import retrieval
from clip_edge.distill.validation import figures, is_at_chance


def found(count: int, signal: float) -> dict[str, object]:
    """Retrieval among `count` pairs whose cosines rise by `signal` over noise."""
    random = np.random.default_rng(0)
    image = random.standard_normal((count, 64)).astype(np.float32)
    text = signal * image + random.standard_normal((count, 64)).astype(np.float32)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    return retrieval(image, text, np.arange(count))


@pytest.mark.parametrize("count", [16, 200])
def test_noise_is_at_chance_and_a_signal_is_not(count: int) -> None:
    assert is_at_chance(found(count, 0.0))
    assert not is_at_chance(found(count, 0.5))


def test_one_picture_says_nothing() -> None:
    assert not is_at_chance(found(1, 0.0))


def test_names_in_the_log() -> None:
    assert sorted(figures("val", found(30, 1.0))) == [
        f"val/{direction}/recall_at_{k}" for direction in ("image_to_text", "text_to_image") for k in (1, 10, 5)
    ]
