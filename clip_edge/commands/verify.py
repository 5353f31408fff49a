"""`clip-edge verify`: does this bundle still give its reference embeddings, on this machine, with this backend?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from clip_edge.cli import Outcome
from clip_edge.console import Console
from clip_edge.errors import ExitCode
from clip_edge.schema import as_dict

if TYPE_CHECKING:
    from clip_edge.runtime.verify import Verification


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a folder made by `clip-edge export`")
    parser.add_argument("--backend", default="onnxruntime", help="see `clip-edge list backends` (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="of the backend (default: every physical core)")


def run(args: argparse.Namespace, console: Console) -> Outcome:
    from clip_edge.bundle import Bundle
    from clip_edge.machine import this_machine_class
    from clip_edge.quantization import read_reports, unfit
    from clip_edge.runtime.verify import verify

    proof = verify(args.bundle, args.backend, threads=args.threads, console=console)
    show(proof, console)
    if args.backend in ("onnxruntime", "native"):
        for problem in unfit(read_reports(Bundle.open(args.bundle, verify_hashes=False)), this_machine_class()):
            console.warn(problem)
    data = {**as_dict(proof), "passed": proof.passed, "problems": proof.problems}
    return Outcome(data, ExitCode.OK if proof.passed else ExitCode.NO)


def show(proof: Verification, console: Console) -> None:
    """The checks as a table, and each failure in words."""
    rows: list[list[object]] = [
        ["files", proof.files, "size and SHA-256", "equal", "ok"],
        ["preprocessing", "", f"{proof.preprocess_max_grey} grey levels off", "≤ 1", _word(proof.preprocess_passed)],
        ["token ids", "", f"{proof.token_rows_different} rows differ", "0", _word(proof.token_rows_different == 0)],
    ]
    for check in proof.towers:
        measured = f"cosine {check.min_cosine:.6f} min, {check.mean_cosine:.6f} mean; {check.max_abs:.1e} max abs"
        name = f"{check.tower} {check.target} {check.precision}"
        rows.append([name, check.cases, measured, f"≥ {check.tolerance}", _word(check.passed)])
    for graph in proof.graphs:
        masks = "" if graph.min_mask_iou is None else f"; mask IoU {graph.min_mask_iou:.4f} min"
        measured = f"cosine {graph.min_cosine:.6f} min, {graph.mean_cosine:.6f} mean; {graph.max_abs:.1e} max abs"
        name = f"{graph.graph} {graph.target} {graph.precision}"
        rows.append([name, graph.cases, measured + masks, f"≥ {graph.tolerance}", _word(graph.passed)])
    for name, share in proof.top1_agreement.items():
        rows.append([f"top-1 {name}", "", f"{share:.1%} agree", "reported", ""])
    console.table(["check", ">cases", "found", "expected", ""], rows, title=f"{proof.bundle} on {proof.backend}")
    for problem in proof.problems:
        console.warn(problem)


def _word(passed: bool) -> str:
    return "ok" if passed else "FAILED"
