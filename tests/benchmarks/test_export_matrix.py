"""The table of all models: cells that failed carry their reason, cells that were not tried are named."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from clip_edge.benchmarks.export_matrix import (
    COLUMNS,
    MODELS,
    TRAINED,
    Cell,
    RefusedError,
    _watch,
    cells_of,
    main,
    measure,
    page,
    save,
)

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


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system does not tell how busy a process was")
def test_a_process_that_waits_for_its_turn_is_not_stopped() -> None:
    """On a machine that others use the clock goes on while nothing happens."""
    waiting = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3)"])
    _watch(waiting, memory_mb=1000, time_s=1.5)
    assert waiting.returncode == 0
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    with pytest.raises(RefusedError, match="stopped: it took more than 1 s"):
        _watch(busy, memory_mb=1000, time_s=0.7)


def test_the_page_shows_figures_reasons_and_what_is_missing() -> None:
    row = {"tower": "image", "cases": 32, "min_cosine": 0.99, "p1_cosine": 0.995, "bytes": 2_000_000}
    towers = [row, {**row, "tower": "text", "bytes": 1_000_000}]
    cells = [Cell("a", "onnx", "fp32", towers=towers), Cell("b", "onnx", "int8", reason="too large")]
    text = page(cells, ["c (onnx int4)"], SETTINGS)
    assert "| a | onnx | fp32 | 0.99000 / 0.99500 | 2.0 | 0.99000 / 0.99500 | 1.0 |  |  | – |" in text
    assert "| b | onnx | int8 | – [1] | | – [1] | | | | – |" in text
    assert "[1] too large" in text
    assert text.endswith("Not measured yet, for want of time: c (onnx int4).\n")


def test_what_a_precision_costs_is_held_against_its_goal() -> None:
    row = {"tower": "image", "cases": 32, "min_cosine": 0.99, "p1_cosine": 0.995, "bytes": 2_000_000}
    shares = {"fp32": (0.75, 0.9), "fp16": (0.7505, 0.899), "int8": (0.744, 0.9)}
    cells = [
        Cell(
            TRAINED,
            "onnx",
            precision,
            towers=[row, {**row, "tower": "text"}],
            accuracy={"top_1": top_1, "classified": 2000, "recall_at_1": recall, "asked": 8000},
        )
        for precision, (top_1, recall) in shares.items()
    ]
    text = page(cells, [], SETTINGS)
    assert "| fp32 | 0.99000 / 0.99500 | 2.0 | 0.99000 / 0.99500 | 2.0 | 75.0 % | 90.0 % | – |" in text
    assert "| int8 | 0.99000 / 0.99500 | 2.0 | 0.99000 / 0.99500 | 2.0 | -0.60 | +0.00 | – |" in text
    assert "| fp16 | ≤ 0.1 | -0.05 | 0.10 | met |" in text
    assert "| int8 | ≤ 0.5 | 0.60 | 0.00 | missed |" in text
    assert "picture in one language is 0.05 points of top-1, one question 0.013 of R@1" in text


def test_cells_that_there_was_no_time_for_get_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, table = tmp_path / "m.json", tmp_path / "m.md"
    where = ["--student", "run", "--data", "data", "--out", str(out), "--page", str(table)]
    for only, reason in (("| coreml |", "no Mac"), ("ViT-B/16", "an hour")):
        monkeypatch.setattr("sys.argv", ["export_matrix", *where, "--only", only, "--not-run", reason])
        main()
    text = table.read_text()
    assert "| ViT-B/16 | coreml | fp16 | – [1] |" in text, "a reason stays until --again"
    assert "| ViT-B/16 | onnx | fp32 | – [2] |" in text
    assert "[1] no Mac  \n[2] an hour  \n" in text


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
