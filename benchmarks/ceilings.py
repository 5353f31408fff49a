"""How near rows come to what the machine can do at most: the fastest matrix product and the fastest copy, measured.

A row that is near neither waits for something else: for small layers, for one thread, for calls. The ceilings are
measured by PyTorch in a process of its own, because measured rows never share theirs with it.
"""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

from clip_edge.benchmarks.plan import Plan, items_of
from clip_edge.benchmarks.report import Ceiling, Report, Row, Share
from clip_edge.bundle import Bundle, Tower
from clip_edge.errors import ArtifactError, UnavailableError
from clip_edge.files import parse_json
from clip_edge.runtime.backends import BACKENDS
from clip_edge.schema import build

PROGRAM = "clip_edge.distill.ceilings"
TIMEOUT_S = 300.0


def need_packages() -> None:
    """Say before minutes of measuring, not after, what is missing.

    Raises:
        UnavailableError: PyTorch or onnx is not installed.
    """
    missing = [name for name in ("torch", "onnx") if importlib.util.find_spec(name) is None]
    if missing:
        raise UnavailableError(
            f"--ceilings needs {' and '.join(missing)}, which is not installed", hint="pip install 'clip-edge[export]'"
        )


def with_ceilings(report: Report, plan: Plan, flops_of: Callable[[Bundle, Tower], int | None]) -> Report:
    """The report, with the ceilings of the devices in it and the share of each row that was measured here.

    `flops_of` counts the operations of a tower for one picture or sentence.

    Raises:
        UnavailableError: the ceilings cannot be measured.
    """
    counted = [row for row in report.results if _is_counted(row)]
    ceilings = {key: _measure(*key) for key in sorted({(_kind(row), row.threads) for row in counted})}
    flops = {key: flops_of(plan.bundles[key[0]], key[1]) for key in {(row.bundle, row.tower) for row in counted}}
    rows = tuple(
        replace(row, share=share_of(row, flops[row.bundle, row.tower], ceilings[_kind(row), row.threads]))
        if _is_counted(row)
        else row
        for row in report.results
    )
    return replace(report, results=rows, ceilings=tuple(ceilings.values()))


def share_of(row: Row, flops: int | None, ceiling: Ceiling) -> Share | None:
    """How near the stage `encode` of a row comes to the ceilings; None where no graph says what the tower computes.

    The engine must do `flops` for every row of a batch, and read the file's weights once for every batch. What passes
    through memory between layers is not counted, so the second share is the least that it can be.
    """
    encode_s = row.stages_s.get("encode", 0.0)
    if flops is None or encode_s <= 0:
        return None
    items = items_of(row.scenario, row.batch)
    done, read = flops * items, row.file_bytes * math.ceil(items / row.batch)
    best = max(ceiling.matmul_flops_per_s.values())
    return Share(done, done / encode_s / best, read / encode_s / ceiling.copy_bytes_per_s)


def _is_counted(row: Row) -> bool:
    return not row.device and row.scenario != "cold-start"


def _kind(row: Row) -> str:
    return "cuda" if row.backend in BACKENDS and BACKENDS[row.backend].gpu else "cpu"


def _measure(kind: str, threads: int) -> Ceiling:
    words = [sys.executable, "-m", PROGRAM, "--device", kind, "--threads", str(threads)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as problem:
        raise UnavailableError(f"the ceilings of {kind} took more than {TIMEOUT_S:.0f} s to measure") from problem
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise UnavailableError(f"the ceilings of {kind} cannot be measured: {last}")
    return build(Ceiling, parse_json(done.stdout.encode(), where=PROGRAM), where=PROGRAM, error=ArtifactError)
