"""The references between the graphs: what is read is what was written, or an error that says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clip_edge.bundle import Bundle
from clip_edge.errors import BundleError
from clip_edge.golden_graphs import GOLDEN_GRAPHS, GraphGolden, read_graph_golden


def test_it_is_read_as_it_was_written(tiny_segment_bundle: Path) -> None:
    manifest, path = Bundle.open(tiny_segment_bundle).manifest, tiny_segment_bundle / GOLDEN_GRAPHS
    golden = read_graph_golden(path.read_bytes(), manifest, path)
    assert golden.cases == 6
    assert golden.to_bytes() == path.read_bytes()
    names = {"feature_map", "image_embeds", "patch_embeds", "points", "labels", "mask_logits", "iou"}
    assert set(golden.tensors) == names


def without(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in tensors.items() if name != "iou"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, "missing tensor: `iou`"),
        (lambda tensors: tensors | {"x": tensors["iou"]}, "unknown tensor: `x`"),
        (
            lambda tensors: tensors | {"iou": tensors["iou"][:2]},
            "the tensors must hold the same number of pictures, and at least one",
        ),
        (
            lambda tensors: tensors | {"iou": tensors["iou"].astype(np.float64)},
            "`iou` must be float32 of shape [None, 3]; found float64 [6, 3]",
        ),
        (lambda tensors: tensors | {"iou": tensors["iou"] * np.float32(np.nan)}, "`iou` is not finite"),
    ],
)
def test_what_does_not_fit_is_refused(change, message: str, tiny_segment_bundle: Path) -> None:  # type: ignore[no-untyped-def]
    manifest, path = Bundle.open(tiny_segment_bundle).manifest, tiny_segment_bundle / GOLDEN_GRAPHS
    tensors = read_graph_golden(path.read_bytes(), manifest, path).tensors
    with pytest.raises(BundleError) as caught:
        read_graph_golden(GraphGolden(change(dict(tensors))).to_bytes(), manifest, path)
    assert str(caught.value) == f"{message}\n  in: {path}\n\nhint: export the model again"


def test_other_bytes_are_refused(tiny_segment_bundle: Path) -> None:
    manifest = Bundle.open(tiny_segment_bundle).manifest
    with pytest.raises(BundleError, match="not a safetensors file"):
        read_graph_golden(b"no", manifest, Path("x"))
