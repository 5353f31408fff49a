import numpy as np
import pytest
import torch
from PIL import Image

from clip_edge.distill.data.augment import Augment, AugmentSpec
from clip_edge.preprocess import PreprocessSpec, to_pixels

PREPROCESS = PreprocessSpec(size=24, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
STRONG = AugmentSpec(crop_scale=(0.4, 1.0), flip=0.5, jitter=0.4, hue=0.1, randaugment_ops=2)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))


def test_the_default_is_the_reference_preprocessing(image):
    assert np.array_equal(Augment(AugmentSpec(), PREPROCESS)(image, (1, 2, 3)), to_pixels(image, PREPROCESS))


@pytest.mark.parametrize(
    "spec",
    [
        AugmentSpec(crop_scale=(0.3, 0.9)),
        AugmentSpec(flip=0.5),
        AugmentSpec(jitter=0.4),
        AugmentSpec(hue=0.2),
        AugmentSpec(randaugment_ops=2),
        STRONG,
    ],
)
def test_same_seed_same_pixels_other_seeds_others(image, spec):
    augment = Augment(spec, PREPROCESS)
    first = augment(image, (0, 0, 5))
    assert first.shape == (24, 24, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, augment(image, (0, 0, 5)))
    assert any(not np.array_equal(first, augment(image, (0, epoch, 5))) for epoch in range(1, 9))


def test_the_global_generators_stay_where_they_were(image):
    torch.manual_seed(7)
    np.random.seed(7)
    expected = (torch.rand(3).tolist(), np.random.rand(3).tolist())
    torch.manual_seed(7)
    np.random.seed(7)
    Augment(STRONG, PREPROCESS)(image, (0, 0, 0))
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist()) == expected


def test_a_flip_of_probability_one_mirrors(image):
    flipped = Augment(AugmentSpec(flip=1.0), PREPROCESS)(image, (0,))
    assert np.array_equal(flipped, to_pixels(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), PREPROCESS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_scale": (0.0, 1.0)}, r"`crop_scale` must be a rising range above 0 and up to 1; found \(0.0, 1.0\)"),
        ({"crop_scale": (0.9, 0.5)}, r"`crop_scale` must be a rising range"),
        ({"crop_ratio": (2.0, 1.0)}, r"`crop_ratio` must be a rising range"),
        ({"flip": 1.5}, r"`flip` must lie in 0..1; found 1.5"),
        ({"hue": 0.6}, r"`hue` must lie in 0..0.5; found 0.6"),
        ({"randaugment_magnitude": 31}, r"`randaugment_magnitude` must lie in 0..30; found 31"),
    ],
)
def test_values_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        AugmentSpec(**change)
