"""Calibration data that cannot be used is refused in words that lead to it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from PIL import Image

from clip_edge.errors import DataError
from clip_edge.export.calibration import load_calibration
from clip_edge.export.sources import Exportable
from clip_edge.preprocess import PreprocessSpec


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
