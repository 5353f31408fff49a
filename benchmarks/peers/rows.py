"""The processes of a run with peers: started, checked against our embedding, and asked in turn like any other row.

Every peer has one, and so has every row of ours beside them: what shares its process with other engines is slower.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from clip_edge.benchmarks.peers import PEERS
from clip_edge.benchmarks.peers.client import PeerProcess, same_embedding
from clip_edge.benchmarks.peers.environments import python_of
from clip_edge.benchmarks.peers.job import PeerJob
from clip_edge.benchmarks.plan import Cell, Plan
from clip_edge.benchmarks.report import Accuracy, Failure
from clip_edge.benchmarks.scenarios import Sampler
from clip_edge.bundle import Tower
from clip_edge.console import Console
from clip_edge.errors import ArtifactError, ClipEdgeError
from clip_edge.machine import usable_cores
from clip_edge.numerics import TOLERANCES
from clip_edge.runtime import load

# From picture bytes on, libraries differ by a grey level here and there: their fp32 is allowed what fp16 is.
END_TO_END = {
    "fp32": TOLERANCES["fp16"].min_cosine,
    "bf16": TOLERANCES["fp16"].min_cosine,
    "int8": TOLERANCES["int8"].min_cosine,
}
MORE_CORES = 1.1  # times its threads: the clocks of a process and of the wall differ a little


def _python(cell: Cell) -> Path:
    if cell.peer is None:
        return Path(sys.executable)
    reason = PEERS[cell.peer].fixed
    if reason is not None:
        raise ArtifactError(reason)
    return python_of(cell.peer)


@dataclass(frozen=True)
class _Open:
    process: PeerProcess
    accuracy: Accuracy | None


class OpenPeers:
    """The processes of a run with peers; `failures` names those that cannot be timed, with the reason, `warnings` those
    that differ from us in a few rows or take more cores than they should.
    """

    def __init__(self, plan: Plan, folder: Path, files: Sequence[str], console: Console) -> None:
        self.failures: list[Failure] = []
        self._differing: list[str] = []
        self._busy: dict[Cell, str] = {}  # asked for more than once: the last answer counts
        self._plan, self._folder, self._files, self._console = plan, folder, tuple(files), console
        self._open: dict[Cell, _Open] = {}
        self._wanted: dict[tuple[str, Tower], np.ndarray] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def samplers(self, cells: Sequence[Cell]) -> Mapping[Cell, Sampler]:
        """A sampler for each row that runs the model and, where it is a peer's, gives the same embedding."""
        found: dict[Cell, Sampler] = {}
        if not cells:
            return found
        pythons: dict[Cell, Path] = {}
        for cell in cells:  # one after the other: two peers may share an environment
            with self._listing(cell):
                pythons[cell] = _python(cell)
                if cell.peer is not None:
                    self._ours(cell)  # not in the threads below, which would compute it several times
        with (
            self._console.progress("starting processes", len(pythons), "rows") as meter,
            ThreadPoolExecutor(usable_cores()) as pool,
        ):
            starting = {cell: pool.submit(self._start, cell, python) for cell, python in pythons.items()}
            for cell, start in starting.items():
                with self._listing(cell):
                    opened = self._open[cell] = start.result()
                    found[cell] = Sampler(partial(opened.process.query, cell.items), self._plan.rules(cell))
                meter.advance(note=cell.backend)
        return found

    def facts(self, cell: Cell) -> tuple[int | None, int, Accuracy | None]:
        """Peak memory of a row that was measured; of a peer also file size and accuracy."""
        opened = self._open[cell]
        file_bytes, accuracy = opened.process.file_bytes, opened.accuracy
        try:
            usage = opened.process.usage()
        except ClipEdgeError:  # it ended while it was measured, which the report says
            return None, file_bytes, accuracy
        if usage.cores > MORE_CORES * cell.threads:
            self._busy[cell] = f"{cell.name} keeps {usage.cores:.1f} cores busy, whatever its number of threads says"
        return usage.peak_rss_bytes, file_bytes, accuracy

    @property
    def warnings(self) -> list[str]:
        """What about the peers' rows should be doubted; complete when `facts` was asked for all of them."""
        return [*self._differing, *self._busy.values()]

    @contextmanager
    def _listing(self, cell: Cell) -> Iterator[None]:
        """What goes wrong inside is listed, and the run goes on."""
        try:
            yield
        except ClipEdgeError as problem:
            self.failures.append(Failure(cell.name, problem.what))

    def _start(self, cell: Cell, python: Path) -> _Open:
        """A process that gives our embedding. Several are started at once, in threads."""
        name = cell.peer or f"{cell.backend} {cell.precision}"
        folder = self._folder / f"{name}-{cell.tower}-{cell.batch}-{cell.threads}-{cell.scenario}"
        (folder / "work").mkdir(parents=True)
        process = self._stack.enter_context(PeerProcess(name, self._job(cell, folder / "work"), python, folder))
        if cell.peer is None:
            return _Open(process, None)
        tolerance = END_TO_END[cell.precision]
        try:
            same = same_embedding(process.embeddings(), self._ours(cell), tolerance)
        except ClipEdgeError:
            process.close()  # its memory is wanted by the others
            raise
        if same.differ:
            kind = "pictures" if cell.tower == "image" else "sentences"
            self._differing.append(f"{cell.name} gives another embedding for {same.differ} of {same.count} {kind}")
        return _Open(process, Accuracy(same.min_cosine, tolerance, same.differ == 0))

    def _job(self, cell: Cell, work: Path) -> PeerJob:
        peer = None if cell.peer is None else PEERS[cell.peer]
        bundle = self._plan.bundles[cell.bundle]
        return PeerJob(
            module="ours" if peer is None else peer.module,
            variant=f"{cell.backend} {cell.precision}" if peer is None else peer.variant,
            tower=cell.tower,
            batch=cell.batch,
            threads=cell.threads,
            bundle=str(bundle.folder.resolve()),
            source=str(bundle.manifest.source.provenance.get("source", bundle.manifest.name)),
            images=self._files if cell.tower == "image" else (),
            texts=self._plan.workload.texts if cell.tower == "text" else (),
            work=str(work),
        )

    def _ours(self, cell: Cell) -> np.ndarray:
        """Our embedding of the work, from the bundle's most exact graph of target onnx."""
        key = cell.bundle, cell.tower
        if key not in self._wanted:
            work = self._plan.workload
            with load(self._plan.bundles[cell.bundle].folder, towers=[cell.tower]) as model:
                self._wanted[key] = (
                    model.encode_images(work.images) if cell.tower == "image" else model.encode_texts(work.texts)
                )
        return self._wanted[key]
