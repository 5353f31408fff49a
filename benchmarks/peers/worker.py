"""A peer in a process of its own: `python -I worker.py CLIP_EDGE BENCHMARKS JOB.json`, driven through its pipes.

It runs in the peer's environment, where clip-edge is not installed: the two folders of its source are shown to Python
under their names, and nothing else of the environment that they lie in. Answers are JSON lines:

    (start)   {"versions": …, "file_bytes": …, "load_s": …}  or  {"error": …}
    embed     {"embeds": …}, one row for every picture or sentence of the job
    run N     {"seconds": …, "stages": …}, for the next N of them
    usage     {"peak_rss_bytes": …, "cores": …}, the cores kept busy by the embeddings of `run`
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_edge.benchmarks.peers.job import Opened, PeerJob


def show_source(root: str, benchmarks: str) -> None:
    """Make `clip_edge` and `clip_edge.benchmarks` importable from their folders."""
    for name, folder in (("clip_edge", root), ("clip_edge.benchmarks", benchmarks)):
        spec = importlib.util.spec_from_file_location(
            name, Path(folder) / "__init__.py", submodule_search_locations=[folder]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


class Worker:
    """Answers the commands."""

    def __init__(self, job: PeerJob) -> None:
        self.job = job
        self.items = job.items()
        self.turn = itertools.count()
        self.ran_s = self.busy_s = 0.0
        started_s = time.perf_counter()
        self.opened: Opened = importlib.import_module(f"clip_edge.benchmarks.peers.{job.module}").open_peer(job)
        self.load_s = time.perf_counter() - started_s

    def facts(self) -> dict[str, Any]:
        from importlib.metadata import version

        versions = {name: version(name) for name in self.opened.packages}
        return {"versions": versions, "file_bytes": self.opened.file_bytes, "load_s": self.load_s}

    def embed(self) -> dict[str, Any]:
        """Batches of one size, the last filled up from the start: some peers are made for one size only."""
        rows: list[list[float]] = []
        for start in range(0, len(self.items), self.job.batch):
            batch = [self.items[i % len(self.items)] for i in range(start, start + self.job.batch)]
            rows += self.opened.encode(self.opened.prepare(batch)).tolist()
        return {"embeds": rows[: len(self.items)]}

    def run(self, count: int) -> dict[str, Any]:
        items = [self.items[next(self.turn) % len(self.items)] for _ in range(count)]
        busy_s, started_s = time.process_time(), time.perf_counter()
        stages = self.in_two_stages(items) if self.opened.query is None else self.opened.query(items)
        seconds = time.perf_counter() - started_s
        self.ran_s, self.busy_s = self.ran_s + seconds, self.busy_s + time.process_time() - busy_s
        return {"seconds": seconds, "stages": dict(stages)}

    def in_two_stages(self, items: Sequence[Any]) -> dict[str, float]:
        prepare_s = encode_s = 0.0
        for start in range(0, len(items), self.job.batch):
            started_s = time.perf_counter()
            ready = self.opened.prepare(items[start : start + self.job.batch])
            ready_s = time.perf_counter()
            self.opened.encode(ready)
            prepare_s, encode_s = prepare_s + ready_s - started_s, encode_s + time.perf_counter() - ready_s
        return {"preprocess" if self.job.tower == "image" else "tokenise": prepare_s, "encode": encode_s}

    def usage(self) -> dict[str, Any]:
        from clip_edge.benchmarks.child import peak_rss_bytes

        return {"peak_rss_bytes": peak_rss_bytes(), "cores": self.busy_s / self.ran_s if self.ran_s else 0.0}


def main() -> None:
    root, benchmarks, file = sys.argv[1:4]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print, some of them in C; the pipe is for answers
    show_source(root, benchmarks)
    from clip_edge.benchmarks.peers.job import CannotRunError, PeerJob
    from clip_edge.schema import build

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        worker = Worker(build(PeerJob, json.loads(Path(file).read_text()), where=file))
    except CannotRunError as problem:
        answer({"error": str(problem)})
        return
    answer(worker.facts())
    for line in sys.stdin:
        word, _, count = line.strip().partition(" ")
        if word == "run":
            answer(worker.run(int(count)))
        else:
            answer(worker.embed() if word == "embed" else worker.usage())


if __name__ == "__main__":
    main()
