"""Back from normalised values to the picture: for engines whose graph takes the picture itself."""

from __future__ import annotations

import numpy as np

from clip_edge.preprocess import Bytes, Floats, PreprocessSpec


def denormalize(values: Floats, spec: PreprocessSpec) -> Bytes:
    """(..., 3, S, S) float32, as `preprocess.normalize` gives them -> the uint8 pixels they came from, exactly.

    A value is off by less than 1e-3 of a grey level, so rounding finds the pixel again.
    """
    mean, std = (np.array(each, np.float32).reshape(3, 1, 1) for each in (spec.mean, spec.std))
    pixels: Bytes = np.clip(np.rint((values * std + mean) * np.float32(255)), 0, 255).astype(np.uint8)
    return pixels
