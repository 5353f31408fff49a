"""Calibration data that cannot be used is refused in words that lead to it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from clip_edge.distill.data.readers import open_dataset
from clip_edge.errors import DataError
from clip_edge.export.calibration import load_calibration
from clip_edge.export.sources import Exportable, load_source
from clip_edge.preprocess import PreprocessSpec
from clip_edge.runtime import load


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    lines = ["image\tcaption"]
    for index in range(40):
        Image.new("RGB", (8, 8), (index, 90, 10)).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png\ta red apple")
    (tmp_path / "7.png").write_bytes(b"no picture")
    (tmp_path / "data.tsv").write_text("\n".join(lines))
    source = cast(Exportable, SimpleNamespace(preprocess=PreprocessSpec(8)))  # nothing else is asked before it fails
    with pytest.raises(DataError) as caught:
        load_calibration(tmp_path / "data.tsv", source)
    assert caught.value.exit_code == 2
    assert caught.value.what == "a picture to calibrate with: not a picture that clip-edge reads"
    assert caught.value.where == str(tmp_path / "7.png")
    assert caught.value.hint == "`clip-edge data check DATA` names every picture that cannot be read"


def test_rows_are_what_the_runtime_makes_of_the_same_files(
    tiny_student: Path, tiny_bundle: Path, tiny_calibration: Path
) -> None:
    """Ranges of pixels or ids that were prepared in another way would be those of another model."""
    source = load_source(tiny_student)
    found, dataset = load_calibration(tiny_calibration, source), open_dataset(tiny_calibration)
    samples = [dataset.sample(index) for index in range(len(dataset))]
    texts = [text for sample in samples for captions in sample.captions.values() for text in captions]
    assert len(found.pixels) == len(samples)
    assert len(found.input_ids) == len(texts)
    pixels = [torch.from_numpy(rows) for rows in found.rows("image")]
    ids = [torch.from_numpy(rows) for rows in found.rows("text")]
    with load(tiny_bundle, threads=1) as model, torch.inference_mode():
        pictures, sentences = model.encode_images([sample.image for sample in samples]), model.encode_texts(texts)
        for half, (some, words) in enumerate(zip(pixels, ids, strict=True)):  # to measure on, and to judge by
            assert np.abs(source.image(some).numpy() - pictures[half::2]).max() < 1e-5
            assert np.abs(source.text(words).numpy() - sentences[half::2]).max() < 1e-5
