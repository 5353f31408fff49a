"""A peer's process, seen from the run that measures it: started, asked, watched, ended."""

from __future__ import annotations

import queue
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

import clip_edge
from clip_edge import benchmarks
from clip_edge.benchmarks.peers.job import PeerJob
from clip_edge.benchmarks.scenarios import Timing
from clip_edge.errors import ArtifactError
from clip_edge.files import parse_json, write_json
from clip_edge.numerics import cosine_rows, unit_rows
from clip_edge.schema import as_dict

START_LIMIT_S = 600.0  # torch.compile and NNCF work for minutes
ANSWER_LIMIT_S = 120.0
MAY_DIFFER = 0.25  # of the rows: a golden set is made of hard cases, and another model differs in all


@dataclass(frozen=True)
class Usage:
    """The most memory that a peer has had resident, and how many cores its queries kept busy on average."""

    peak_rss_bytes: int
    cores: float


class PeerProcess:
    """One tower in one peer. Every question has a time limit: a peer that hangs is ended and said to hang.

    Raises (all methods):
        ArtifactError: the peer refused the model, crashed, or hung; the message carries its last words.
    """

    def __init__(
        self,
        name: str,
        job: PeerJob,
        python: Path,
        folder: Path,
        *,
        start_limit_s: float = START_LIMIT_S,
        answer_limit_s: float = ANSWER_LIMIT_S,
    ) -> None:
        self.name = name
        self._answer_limit_s = answer_limit_s
        self._talk = folder / "stderr"
        file = folder / "job.json"
        write_json(file, as_dict(job))
        worker = Path(__file__).with_name("worker.py")
        sources = [str(Path(str(package.__file__)).parent) for package in (clip_edge, benchmarks)]
        with self._talk.open("wb") as stderr:
            self._process = subprocess.Popen(
                [python, "-I", worker, *sources, file],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            facts = self._answer(start_limit_s)
        except BaseException:
            self.close()
            raise
        self.versions: dict[str, str] = dict(facts["versions"])
        self.file_bytes = int(facts["file_bytes"])
        self.load_s = float(facts["load_s"])

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _answer(self, limit_s: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=limit_s)
        except queue.Empty:
            self._process.kill()
            raise ArtifactError(f"`{self.name}` gave no answer in {limit_s:g} s and was ended") from None
        if not line:
            self._lines.put(line)  # it has ended for the next question, too
            said = self._talk.read_text(errors="replace").strip().splitlines()
            last = said[-1] if said else "it said nothing"
            raise ArtifactError(f"`{self.name}` ended with exit code {self._process.wait()}: {last}")
        answer: dict[str, Any] = parse_json(line.encode(), where=self.name)
        if "error" in answer:
            raise ArtifactError(str(answer["error"]))
        return answer

    def _ask(self, words: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended: what it said last stands in the answer
            self._process.stdin.write(f"{words}\n")
            self._process.stdin.flush()
        return self._answer(self._answer_limit_s)

    def embeddings(self) -> np.ndarray:
        """(N, D) unit vectors of all pictures or sentences of the job."""
        return unit_rows(np.array(self._ask("embed")["embeds"], dtype=np.float32))

    def query(self, count: int) -> Timing:
        """The next `count` pictures or sentences, timed by the peer's own clock."""
        answer = self._ask(f"run {count}")
        return Timing(float(answer["seconds"]), {name: float(value) for name, value in answer["stages"].items()})

    def usage(self) -> Usage:
        """What it has taken of the machine."""
        answer = self._ask("usage")
        return Usage(int(answer["peak_rss_bytes"]), float(answer["cores"]))

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # a question that was never read
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class Agreement:
    """A peer's embeddings beside ours: the smallest cosine, and how many of `count` rows are below the tolerance."""

    min_cosine: float
    differ: int
    count: int


def same_embedding(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> Agreement:
    """Whether two sets of unit vectors, row by row, come from one model.

    A few rows may differ: libraries clean rare characters and crop narrow pictures in ways of their own.

    Raises:
        ArtifactError: more than a quarter of the rows are below the tolerance, or the shapes differ.
    """
    if found.shape != wanted.shape:
        raise ArtifactError(f"embeddings of {found.shape[1:]} values instead of {wanted.shape[1:]}: another model")
    cosines = cosine_rows(found, wanted)
    differ = int((~(cosines >= tolerance)).sum())
    if differ > MAY_DIFFER * len(cosines):
        raise ArtifactError(
            f"gives another embedding: {differ} of {len(cosines)} below a cosine of {tolerance} to ours in fp32, "
            f"median {float(np.median(cosines)):.4f}"
        )
    return Agreement(float(cosines.min()), differ, len(cosines))
