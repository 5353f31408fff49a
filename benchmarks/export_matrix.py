"""The table of docs/targets/matrix.md: every model in every precision of every target, exported and proved by the CLI.

    python -m clip_edge.benchmarks.export_matrix --student RUN --data DATA

The precisions of a model for a target are exported by one process, with a limit of memory and of time for each; if it
fails, each precision is tried alone. Finished cells are kept in the JSON file, so that the table can be made in parts,
on another day, or on another machine. Where no trained weights can be had they are random: whether a model exports,
how near it comes to PyTorch and how large it is can be seen without training; its accuracy cannot, and is measured on
the trained student alone. A cell that there was no time for gets its reason with `--not-run REASON`; `--again` tries
it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from clip_edge.files import write_file

MODELS = {
    "MobileCLIP-S0": "student:mobileclip-s0:random",
    "MobileCLIP-S1": "open_clip:MobileCLIP-S1:random",
    "MobileCLIP-S2": "open_clip:MobileCLIP-S2:random",
    "MobileCLIP2-S0": "open_clip:MobileCLIP2-S0:random",
    "MobileCLIP2-S3": "open_clip:MobileCLIP2-S3:random",
    "ViT-B/32": "open_clip:ViT-B-32:random",
    "ViT-B/16": "open_clip:ViT-B-16:random",
    "SigLIP-B/16": "open_clip:ViT-B-16-SigLIP:random",
}
TRAINED = "nano student, trained"  # the folder that --student names
COLUMNS = {  # target -> precisions
    "onnx": ("fp32", "fp16", "int8", "int4"),
    "trt-rtx": ("fp32", "fp16", "int8"),
    "coreml": ("fp16", "int8", "pal4"),
}
CALIBRATED = {("onnx", "int8"), ("trt-rtx", "int8")}  # what cannot be made without pictures and sentences
GOALS = {"fp16": 0.1, "int8": 0.5, "int4": 1.5}  # points of top-1 and of R@1 that a precision may cost
SPLIT = "test"
CAPABILITY = "sm89"  # GeForce RTX 40; the graph is the same for each, and a build takes minutes
POLL_S = 0.5


@dataclass
class Cell:
    """One model in one precision of one target; `reason` says why there are no figures."""

    model: str
    target: str
    precision: str
    reason: str | None = None
    seconds: float | None = None  # of processor; None: not known
    towers: list[dict[str, Any]] = field(default_factory=list)  # tower, bytes, min_cosine, p1_cosine, cases
    accuracy: dict[str, float] | None = None  # of the trained student, of target onnx: see `_accuracy`

    @property
    def key(self) -> str:
        """What finds it again in the JSON file."""
        return f"{self.model} | {self.target} | {self.precision}"


class RefusedError(Exception):
    """A command ended without a result; the text says why."""


def command(words: list[str], *, memory_mb: int, time_s: float) -> dict[str, Any]:
    """Run `clip-edge WORDS --json -`, watched; its JSON object."""
    program = [sys.executable, "-W", "ignore", "-m", "clip_edge.cli", *words, "--json", "-", "--no-progress"]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(program, stdout=out, stderr=told, text=True)
        _watch(process, memory_mb, time_s)
        out.seek(0)
        told.seek(0)
        try:
            answer: dict[str, Any] = json.load(out)
        except ValueError as problem:
            last = told.read().strip().splitlines()
            raise RefusedError(last[-1] if last else f"ended with {process.returncode} and no word") from problem
    if "error" in answer:
        raise RefusedError(" ".join(str(answer["error"]["what"]).split()))
    return answer


def _watch(process: subprocess.Popen[str], memory_mb: int, time_s: float) -> None:
    started = time.monotonic()
    while process.poll() is None:
        used_mb, used_s = _resident_mb(process.pid), _busy_s(process.pid)
        if used_mb > memory_mb or (time.monotonic() - started if used_s is None else used_s) > time_s:
            process.kill()
            process.wait()
            what = f"more than {memory_mb} MB of memory" if used_mb > memory_mb else f"more than {time_s:.0f} s"
            raise RefusedError(f"stopped: it took {what}")
        time.sleep(POLL_S)


def _busy_s(pid: int) -> float | None:
    """The seconds of processor that a process took: a busy neighbour costs none. None: this system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    ticks = int(fields[11]) + int(fields[12])  # utime and stime, fields 14 and 15 of proc(5)
    return ticks / os.sysconf("SC_CLK_TCK")


def _resident_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it just ended, or this system has no /proc: then time alone is limited
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def measure(cells: list[Cell], source: str, args: argparse.Namespace) -> None:
    """Export and prove cells of one model and target, in place: together, and where that fails each one alone."""
    if len(cells) > 1:
        try:
            _measure(cells, source, args)
            return
        except RefusedError:  # which of them failed, and why, is found one by one
            for cell in cells:
                cell.towers.clear()
    for cell in cells:
        try:  # without data where a precision needs none: a tokenizer that does not know its words costs only int8
            _measure([cell], source, args, calibrate=(cell.target, cell.precision) in CALIBRATED)
        except RefusedError as problem:
            cell.reason = str(problem)


def _measure(cells: list[Cell], source: str, args: argparse.Namespace, *, calibrate: bool = True) -> None:
    """One export: the source, its references and its calibration are made once for all `cells`."""
    started_s = _children_s()
    target = cells[0].target
    with tempfile.TemporaryDirectory(prefix="clip-edge-matrix-") as folder:
        bundle = Path(folder) / "bundle"
        words = ["export", source, "--target", target, "--out", str(bundle)]
        words += ["--calibration", str(args.data)] if calibrate else []
        words += [word for cell in cells for word in ("--precision", cell.precision)]
        words += ["--compute-capability", CAPABILITY] if target == "trt-rtx" else []
        made = command(words, memory_mb=args.memory_mb, time_s=args.time_s * len(cells))
        if args.keep is not None:
            kept = args.keep / cells[0].model.replace("/", "").replace(", ", "-").replace(" ", "-") / target
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(bundle, kept)
        if (cells[0].model, target) == (TRAINED, "onnx"):
            for cell in cells:
                cell.accuracy = _accuracy(bundle, cell.precision, args)
    files = made["manifest"]["files"]
    checks = [check for proof in made["proofs"] for check in proof["towers"]]
    for cell in cells:
        for check in (row for row in checks if row["precision"] == cell.precision):
            size = sum(entry["bytes"] for name, entry in files.items() if f"{name}/".startswith(f"{check['path']}/"))
            picked = {name: check[name] for name in ("tower", "cases", "min_cosine", "p1_cosine")}
            cell.towers.append({**picked, "bytes": size})
        cell.seconds = round((_children_s() - started_s) / len(cells), 1)


def _children_s() -> float:
    """The seconds of processor that ended processes of ours took."""
    times = os.times()
    return times.children_user + times.children_system


def _accuracy(bundle: Path, precision: str, args: argparse.Namespace) -> dict[str, float]:
    """Zero-shot top-1, and R@1 as the mean of both directions, each the mean of the languages; shares in 0..1."""
    words = ["eval", str(bundle), "--precision", precision, "--data", str(args.data), "--split", SPLIT, "--task"]
    limits = {"memory_mb": args.memory_mb, "time_s": args.time_s}
    classified, found = (command([*words, task], **limits) for task in ("classify", "retrieve"))
    ways = [found["mean"][way]["recall_at_1"]["value"] for way in ("text_to_image", "image_to_text")]
    return {
        "top_1": classified["mean"]["top_1"]["value"],
        "classified": sum(figures["images"] for figures in classified["languages"].values()),
        "recall_at_1": sum(ways) / len(ways),
        "asked": sum(figures["captions"] + figures["images"] for figures in found["languages"].values()),
    }


def page(cells: list[Cell], missing: list[str], settings: dict[str, Any]) -> str:
    """The table in Markdown; every empty cell carries its reason."""
    lines = [
        "# Which model in which precision",
        "",
        "Made by `python -m clip_edge.benchmarks.export_matrix`; figures: `matrix.json`. Cosines compare each artefact",
        "with fp32 PyTorch over the golden set of its bundle: the smallest, then the first percentile. All weights are",
        "random but the trained student's; calibration on the built-in data. Limits for a cell: "
        f"{settings['memory_mb']} MB, {settings['time_s']:.0f} s.",
        f"Target `trt-rtx`: the engine was built for {CAPABILITY}; the graph that it was built from was compared, and",
        "its size is shown.",
        "Top-1 and R@1 (mean of both directions) are those of fp32, and below it the change in points.",
        "Seconds are those of processors, on a busy machine; precisions that were exported together share theirs.",
        "",
        "| model | target | precision | image: cosine min / p1 | MB | text: cosine min / p1 | MB | top-1 | R@1 | s |",
        "|---|---|---|---|--:|---|--:|--:|--:|--:|",
    ]
    exact = next((cell.accuracy for cell in cells if cell.accuracy and cell.precision == "fp32"), None)
    reasons: dict[str, int] = {}
    lines += [_row(cell, exact, reasons) for cell in cells]
    lines += ["", *(f"[{number}] {reason}  " for reason, number in reasons.items()), *([""] if reasons else [])]
    if missing:
        lines += [f"Not measured yet, for want of time: {', '.join(missing)}.", ""]
    if exact is not None:
        lines += _goals([cell for cell in cells if cell.accuracy and cell.precision in GOALS], exact)
    return "\n".join(lines)


def _row(cell: Cell, exact: dict[str, float] | None, reasons: dict[str, int]) -> str:
    name = f"| {cell.model} | {cell.target} | {cell.precision} "
    seconds = "–" if cell.seconds is None else f"{cell.seconds:.0f}"
    if cell.reason is not None:
        number = reasons.setdefault(cell.reason, len(reasons) + 1)
        return f"{name}| – [{number}] | | – [{number}] | | | | {seconds} |"
    rows = {row["tower"]: row for row in cell.towers}
    parts = [
        f"{rows[tower]['min_cosine']:.5f} / {rows[tower]['p1_cosine']:.5f} | {rows[tower]['bytes'] / 1e6:.1f}"
        for tower in ("image", "text")
    ]
    for figure in ("top_1", "recall_at_1"):
        if cell.accuracy is None or exact is None:
            parts.append("")
        elif cell.accuracy is exact:
            parts.append(f"{100 * exact[figure]:.1f} %")
        else:
            parts.append(f"{100 * (cell.accuracy[figure] - exact[figure]):+.2f}")
    return f"{name}| {' | '.join(parts)} | {seconds} |"


def _goals(cells: list[Cell], exact: dict[str, float]) -> list[str]:
    """What each precision costs the trained student, held against its goal."""
    one = [100 / exact[count] for count in ("classified", "asked")]
    lines = [
        "## What a precision costs",
        "",
        f"The trained student on split `{SPLIT}` of its data, target `onnx`: fp32 less the precision, in points. One",
        f"picture in one language is {one[0]:.2f} points of top-1, one question {one[1]:.3f} of R@1; a negative cost",
        "is a gain by chance.",
        "",
        "| precision | goal | top-1 | R@1 | |",
        "|---|--:|--:|--:|---|",
    ]
    for cell in cells:
        assert cell.accuracy is not None  # picked so
        goal = GOALS[cell.precision]
        costs = [round(100 * (exact[name] - cell.accuracy[name]), 3) for name in ("top_1", "recall_at_1")]
        verdict = "met" if max(costs) <= goal else "missed"
        lines.append(f"| {cell.precision} | ≤ {goal} | {costs[0]:.2f} | {costs[1]:.2f} | {verdict} |")
    return [*lines, ""]


def cells_of(args: argparse.Namespace) -> dict[str, tuple[Cell, str]]:
    """Every cell of the table with the source of its model, in the order of the page."""
    models = {**MODELS, TRAINED: str(args.student)}
    return {
        cell.key: (cell, source)
        for model, source in models.items()
        for target, precisions in COLUMNS.items()
        for precision in precisions
        for cell in [Cell(model, target, precision)]
    }


def main() -> None:
    """Fill the table, cell by cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, required=True, help="run or folder of a trained student")
    parser.add_argument("--data", type=Path, required=True, help="a data set of `clip-edge data emoji`")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/targets/matrix.json"), help="figures (default: %(default)s)"
    )
    parser.add_argument(
        "--page", type=Path, default=Path("docs/targets/matrix.md"), help="table (default: %(default)s)"
    )
    parser.add_argument("--only", default="", help="cells whose `model | target | precision` holds this text")
    parser.add_argument("--again", action="store_true", help="also cells that ended with a reason")
    parser.add_argument("--not-run", metavar="REASON", help="measure nothing; cells without figures get this reason")
    parser.add_argument("--keep", type=Path, help="keep the bundles in KEEP/MODEL/TARGET")
    parser.add_argument("--memory-mb", type=int, default=6000)
    parser.add_argument("--time-s", type=float, default=1800.0, help="of processor, for a cell (default: %(default)s)")
    args = parser.parse_args()
    wanted = cells_of(args)
    stored = json.loads(args.out.read_text())["cells"] if args.out.exists() else []
    known = {cell.key: cell for cell in (Cell(**row) for row in stored)}
    settings = {"memory_mb": args.memory_mb, "time_s": args.time_s}
    groups: dict[tuple[str, str], list[Cell]] = {}
    for key, (cell, _) in wanted.items():
        done = known.get(key)
        if args.only in key and (done is None or (args.again and done.reason)):
            groups.setdefault((cell.model, cell.target), []).append(cell)
    for (model, target), cells in groups.items():
        sys.stderr.write(f"{model} | {target} | {', '.join(cell.precision for cell in cells)} …\n")
        if args.not_run is None:
            measure(cells, wanted[cells[0].key][1], args)
        else:
            for cell in cells:
                cell.reason = args.not_run
        known.update({cell.key: cell for cell in cells})
        save(args, wanted, known, settings)
    save(args, wanted, known, settings)


def save(
    args: argparse.Namespace, wanted: dict[str, tuple[Cell, str]], known: dict[str, Cell], settings: dict[str, Any]
) -> None:
    """Both files, whole; cells that were not measured yet are named below the table."""
    rows = [known[key] for key in wanted if key in known]
    write_file(args.out, json.dumps({"settings": settings, "cells": [asdict(row) for row in rows]}, indent=1).encode())
    empty = [cell for key, (cell, _) in wanted.items() if key not in known]
    missing = [
        f"{model} ({target} {', '.join(cell.precision for cell in cells)})"
        for (model, target), cells in groupby(empty, lambda cell: (cell.model, cell.target))
    ]
    write_file(args.page, page(rows, missing, settings).encode())


if __name__ == "__main__":
    main()
