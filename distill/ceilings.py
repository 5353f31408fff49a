"""The fastest matrix products and copies that PyTorch makes here: what a model can reach at most, in training or after.

`python -m clip_edge.distill.ceilings --device cpu --threads 2` prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch

from clip_edge.errors import UnavailableError

Kind = Literal["cpu", "cuda"]

SIDES: dict[Kind, int] = {"cpu": 2048, "cuda": 8192}  # of square matrices: larger ones are no faster
COPIED_BYTES: dict[Kind, int] = {"cpu": 256 << 20, "cuda": 1 << 30}  # many times what the caches hold
TYPES = ("float32", "bfloat16")
ROUNDS = 20
LEAST_S, MOST_S = 1.0, 4.0  # of each measurement


def measure_ceiling(kind: Kind, threads: int) -> dict[str, Any]:
    """On the CPU with so many threads, or on the first GPU.

    Raises:
        UnavailableError: no GPU that PyTorch can use.
    """
    if kind == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("PyTorch finds no GPU", hint="`clip-edge doctor` tells what is there")
    torch.set_num_threads(threads)
    wait: Callable[[], None] = torch.cuda.synchronize if kind == "cuda" else lambda: None
    side = SIDES[kind]
    products = {}
    for name in TYPES:
        left, right = (torch.randn(side, side, device=kind).to(getattr(torch, name)) for _ in range(2))
        out = torch.empty_like(left)
        products[name] = 2 * side**3 / _fastest_s(partial(torch.mm, left, right, out=out), wait)
    source = torch.zeros(COPIED_BYTES[kind], dtype=torch.uint8, device=kind)
    copy_s = _fastest_s(partial(torch.empty_like(source).copy_, source), wait)
    return {
        "kind": kind,
        "name": torch.cuda.get_device_name() if kind == "cuda" else "cpu",
        "threads": threads,
        "engine": f"torch {torch.__version__}",
        "matmul_flops_per_s": products,
        "copy_bytes_per_s": 2 * COPIED_BYTES[kind] / copy_s,  # read once, written once
    }


def _fastest_s(work: Callable[[], object], wait: Callable[[], None]) -> float:
    times_s: list[float] = []
    while sum(times_s) < MOST_S and (len(times_s) < ROUNDS or sum(times_s) < LEAST_S):
        wait()
        started_s = time.perf_counter()
        work()
        wait()
        times_s.append(time.perf_counter() - started_s)
    return min(times_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=list(SIDES), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    sys.stdout.write(json.dumps(measure_ceiling(args.device, args.threads)) + "\n")


if __name__ == "__main__":
    main()
