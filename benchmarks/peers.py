"""One tower in several engines and precisions, interleaved in one run: `python benchmarks/peers.py --help`.

Each row is a process of its own that answers "run once" with a time, so engines may come from different environments
and none disturbs another's threads; a coordinator asks them in turn, so that a busy machine is busy for all alike.
Times are the CPU time of a query, all threads of the process: on a busy machine wall time is a matter of luck.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import IO, cast

import numpy as np

from clip_edge.benchmarks.environment import read_environment
from clip_edge.console import Console
from clip_edge.files import write_json
from clip_edge.schema import as_dict

WORKER = Path(__file__).with_name("peer_worker.py")


class Row:
    """A worker process: `NAME=PYTHON:ENGINE:MODEL[:ROWS.npy]`."""

    def __init__(self, words: str, threads: int) -> None:
        self.name, _, rest = words.partition("=")
        python, self.engine, *files = rest.split(":")
        self.samples_s: list[float] = []
        self.bytes = Path(files[0]).stat().st_size
        command = [python or sys.executable, str(WORKER), self.engine, str(threads), *files]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions: dict[str, str] = json.loads(self._answer())
        self.embeds = np.array(json.loads(self._answer()), dtype=np.float32)

    def _answer(self) -> str:
        line = cast("IO[str]", self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"{self.name}: the worker stopped with exit code {self._process.wait()}")
        return line

    def run_once(self) -> None:
        """One query; its time is kept."""
        pipe = cast("IO[str]", self._process.stdin)
        pipe.write("run\n")
        pipe.flush()
        self.samples_s.append(float(self._answer()))

    def close(self) -> None:
        """End the worker."""
        cast("IO[str]", self._process.stdin).close()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="+", metavar="NAME=PYTHON:ENGINE:MODEL[:ROWS.npy]")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    args = parser.parse_args()
    console = Console()
    rows = [Row(words, args.threads) for words in args.rows]
    ends_s = time.monotonic() + args.seconds
    while time.monotonic() < ends_s or len(rows[0].samples_s) < 10:
        for row in rows:
            row.run_once()
    first = rows[0]
    results = []
    for row in rows:
        row.close()
        ratios = [a / b for a, b in zip(first.samples_s, row.samples_s, strict=True)]
        cosines = (first.embeds * row.embeds).sum(1) / np.linalg.norm(first.embeds, axis=1)
        cosines = cosines / np.linalg.norm(row.embeds, axis=1)
        results.append(
            {
                "name": row.name,
                "engine": row.engine,
                "versions": row.versions,
                "file_bytes": row.bytes,
                "p50_s": median(row.samples_s),
                "least_s": min(row.samples_s),
                "times_as_fast_as_first_p50": median(ratios),
                "min_cosine_to_first": float(cosines.min()),
                "samples_s": [round(value, 7) for value in row.samples_s],
            }
        )
        console.out(
            f"{row.name:24} p50 {median(row.samples_s) * 1e3:8.2f} ms, least {min(row.samples_s) * 1e3:8.2f} ms, "
            f"{median(ratios):.2f} x the first, cosine {cosines.min():.4f}"
        )
    settings = {"threads": args.threads, "batch": 1, "turns": len(first.samples_s)}
    write_json(args.out, {"settings": settings, "environment": as_dict(read_environment()), "results": results})


if __name__ == "__main__":
    main()
