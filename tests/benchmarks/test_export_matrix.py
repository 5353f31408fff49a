"""The table of all models: cells that failed carry their reason, cells that were not tried are named."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from clip_edge.benchmarks.export_matrix import COLUMNS, MODELS, TRAINED, Cell, cells_of, measure, page, save

SETTINGS = {"memory_mb": 6000, "time_s": 60.0}


def test_every_model_has_every_precision_of_every_target() -> None:
    cells = cells_of(argparse.Namespace(student=Path("run")))
    assert len(cells) == (len(MODELS) + 1) * sum(len(precisions) for precisions in COLUMNS.values())
    assert cells[f"{TRAINED} | onnx | int8"][1] == "run"


@pytest.mark.slow  # three processes that import torch
def test_a_cell_that_failed_carries_the_words_of_the_command(tmp_path: Path) -> None:
    args = argparse.Namespace(data=tmp_path / "nothing", keep=None, **SETTINGS)
    cells = [Cell("none", "onnx", precision) for precision in ("fp32", "int8")]
    measure(cells, str(tmp_path / "no-student"), args)
    assert [cell.towers for cell in cells] == [[], []]
    assert all(cell.reason and "no-student" in cell.reason for cell in cells)


def test_the_page_shows_figures_reasons_and_what_is_missing() -> None:
    row = {"tower": "image", "cases": 32, "min_cosine": 0.99, "p1_cosine": 0.995, "bytes": 2_000_000}
    towers = [row, {**row, "tower": "text", "bytes": 1_000_000}]
    cells = [Cell("a", "onnx", "fp32", towers=towers), Cell("b", "onnx", "int8", reason="too large")]
    text = page(cells, ["c (onnx int4)"], SETTINGS)
    assert "| a | onnx | fp32 | 0.99000 / 0.99500 | 2.0 | 0.99000 / 0.99500 | 1.0 | 0 |" in text
    assert "| b | onnx | int8 | – [1] | | – [1] | | 0 |" in text
    assert "[1] too large" in text
    assert text.endswith("Not measured yet, for want of time: c (onnx int4).\n")


def test_what_is_missing_is_named_once_for_each_model_and_target(tmp_path: Path) -> None:
    args = argparse.Namespace(student=Path("run"), out=tmp_path / "m.json", page=tmp_path / "m.md")
    wanted = cells_of(args)
    known = {key: cell for key, (cell, _) in wanted.items() if cell.model != "ViT-B/16" or cell.precision == "fp32"}
    for cell in known.values():
        cell.reason = "too large"
    save(args, wanted, known, SETTINGS)
    last = args.page.read_text().splitlines()[-1]
    assert last == (
        "Not measured yet, for want of time: ViT-B/16 (onnx fp16, int8, int4), ViT-B/16 (trt-rtx fp16, int8), "
        "ViT-B/16 (coreml fp16, int8, pal4)."
    )
