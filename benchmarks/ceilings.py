"""What the machine can do at most, measured: the fastest matrix product and the fastest copy; and how near rows come.

A row that is near neither ceiling waits for something else: for small layers, for one thread, for calls.
`python -m clip_edge.benchmarks.ceilings --device cpu --threads 2` measures one device and prints JSON; `clip-edge bench
--ceilings` does it in a process of its own, because measured rows never share theirs with PyTorch.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

from clip_edge.benchmarks.plan import Plan, items_of
from clip_edge.benchmarks.report import Ceiling, Report, Row, Share
from clip_edge.bundle import Bundle, Tower
from clip_edge.errors import ArtifactError, UnavailableError
from clip_edge.files import parse_json
from clip_edge.runtime.backends import BACKENDS
from clip_edge.schema import as_dict, build

Kind = Literal["cpu", "cuda"]

SIDES: dict[Kind, int] = {"cpu": 2048, "cuda": 8192}  # of square matrices: larger ones are no faster
COPIED_BYTES: dict[Kind, int] = {"cpu": 256 << 20, "cuda": 1 << 30}  # many times what the caches hold
TYPES = ("float32", "bfloat16")
ROUNDS = 20
BUDGET_S = 4.0  # of each measurement; the fastest round is the ceiling
TIMEOUT_S = 300.0
MAX_GRAPH_BYTES = 2 * 1024**3
EXACT_TARGETS = ("onnx", "trt", "trt-rtx")  # whose fp32 graph says what a tower computes


def measure_ceiling(kind: Kind, threads: int) -> Ceiling:
    """The fastest of many matrix products and copies in PyTorch, on the CPU with so many threads or on the first GPU.

    Raises:
        UnavailableError: no GPU that PyTorch can use.
    """
    import torch

    if kind == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("PyTorch finds no GPU", hint="`clip-edge doctor` tells what is there")
    torch.set_num_threads(threads)
    wait = torch.cuda.synchronize if kind == "cuda" else lambda: None
    side = SIDES[kind]
    products = {}
    for name in TYPES:
        left, right = (torch.randn(side, side, device=kind).to(getattr(torch, name)) for _ in range(2))
        out = torch.empty_like(left)
        products[name] = 2 * side**3 / _fastest_s(partial(torch.mm, left, right, out=out), wait)
    source = torch.zeros(COPIED_BYTES[kind], dtype=torch.uint8, device=kind)
    target = torch.empty_like(source)
    copy_s = _fastest_s(lambda: target.copy_(source), wait)
    name = torch.cuda.get_device_name() if kind == "cuda" else "cpu"
    moved = 2 * COPIED_BYTES[kind] / copy_s  # read once, written once
    return Ceiling(kind, name, threads, f"torch {torch.__version__}", products, moved)


def _fastest_s(work: Callable[[], object], wait: Callable[[], object]) -> float:
    times_s: list[float] = []
    while len(times_s) < ROUNDS or sum(times_s) < BUDGET_S / 4:
        wait()
        started_s = time.perf_counter()
        work()
        wait()
        times_s.append(time.perf_counter() - started_s)
        if sum(times_s) > BUDGET_S:
            break
    return min(times_s)


def with_ceilings(report: Report, plan: Plan) -> Report:
    """The report, with the ceilings of the devices in it and the share of each row that was measured here.

    Raises:
        UnavailableError: PyTorch or onnx is not installed.
    """
    need_packages()
    keys = sorted({(_kind(row), row.threads) for row in report.results if _is_counted(row)})
    ceilings = {key: _measure_apart(*key) for key in keys}
    flops = {
        (row.bundle, row.tower): _flops_of(plan.bundles[row.bundle], row.tower)
        for row in {(row.bundle, row.tower): row for row in report.results if _is_counted(row)}.values()
    }
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


def _kind(row: Row) -> Kind:
    return "cuda" if row.backend in BACKENDS and BACKENDS[row.backend].gpu else "cpu"


def _flops_of(bundle: Bundle, tower: Tower) -> int | None:
    import onnx

    from clip_edge.benchmarks.flops import count_flops

    exact = bundle.manifest.fitting(tower, EXACT_TARGETS).get("fp32")
    if exact is None:
        return None
    return count_flops(onnx.load_model_from_string(bundle.read(exact.path, MAX_GRAPH_BYTES)))


def need_packages() -> None:
    """Say before minutes of measuring, not after, what is missing."""
    missing = [name for name in ("torch", "onnx") if importlib.util.find_spec(name) is None]
    if missing:
        raise UnavailableError(
            f"ceilings need {' and '.join(missing)}, which is not installed", hint="pip install 'clip-edge[export]'"
        )


def _measure_apart(kind: Kind, threads: int) -> Ceiling:
    words = [sys.executable, "-m", "clip_edge.benchmarks.ceilings", "--device", kind, "--threads", str(threads)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise UnavailableError(f"the ceilings of {kind} cannot be measured: {last}")
    where = "python -m clip_edge.benchmarks.ceilings"
    return build(Ceiling, parse_json(done.stdout.encode(), where=where), where=where, error=ArtifactError)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=list(SIDES), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    sys.stdout.write(json.dumps(as_dict(measure_ceiling(args.device, args.threads))) + "\n")


if __name__ == "__main__":
    main()
