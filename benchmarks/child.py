"""A fresh process that loads a bundle, makes embeddings, and tells how long that took and how much memory it held.

Run as `python -m clip_edge.benchmarks.child JOB.json`. It writes one JSON line right after the first embedding, so that
the parent's clock sees launch to first embedding, and a second line with the peak memory when all calls are done.
"""

from __future__ import annotations

import time

STARTED_S = time.perf_counter()  # before the imports below: they are a stage of their own

import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

from clip_edge.bundle import Tower  # noqa: E402
from clip_edge.errors import ArtifactError  # noqa: E402
from clip_edge.files import parse_json, write_json  # noqa: E402
from clip_edge.schema import as_dict, build  # noqa: E402

TIMEOUT_S = 600.0
LAST_LINES = 6  # of what a failed process said: the error, without most of the traceback


@dataclass(frozen=True)
class Job:
    """What the child does: `calls` times the same batch, of picture files or of sentences."""

    bundle: str
    backend: str
    precision: str
    threads: int
    images: tuple[str, ...]
    texts: tuple[str, ...]
    calls: int


@dataclass(frozen=True)
class Launch:
    """What the parent saw: seconds from launch to the first embedding, their stages, and the peak memory."""

    first_embedding_s: float
    stages_s: dict[str, float]
    peak_rss_bytes: int


def launch(job: Job, folder: Path) -> Launch:
    """Run `job` in a fresh interpreter; `folder` takes the job file.

    Raises:
        ArtifactError: the child failed; the message carries its last words.
    """
    file = folder / "job.json"
    write_json(file, as_dict(job))
    words = [sys.executable, "-m", "clip_edge.benchmarks.child", str(file)]
    talk = folder / "child.stderr"  # a file, because a full pipe would stop the child
    with talk.open("wb") as stderr:
        started_s = time.perf_counter()
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=stderr) as child:
            watchdog = threading.Timer(TIMEOUT_S, child.kill)
            watchdog.start()
            assert child.stdout is not None
            first = child.stdout.readline()
            first_embedding_s = time.perf_counter() - started_s
            rest = child.stdout.read()
        watchdog.cancel()
    if child.returncode != 0:
        said = talk.read_text(errors="replace").strip().splitlines()
        last_words = "\n  ".join(said[-LAST_LINES:]) or "it said nothing"
        raise ArtifactError(
            f"a measuring process ended with exit code {child.returncode}:\n  {last_words}",
            where=job.bundle,
            hint="`clip-edge verify` on the bundle tells more",
        )
    stages_s = parse_json(first, where="measuring process")
    memory = parse_json(rest, where="measuring process")
    interpreter_s = first_embedding_s - sum(stages_s.values())
    return Launch(first_embedding_s, {"start": interpreter_s, **stages_s}, int(memory["peak_rss_bytes"]))


def run(job: Job) -> None:
    """Load, embed, and write the two lines."""
    from clip_edge.runtime import load

    imported_s = time.perf_counter()
    towers: list[Tower] = ["image"] if job.images else ["text"]
    model = load(job.bundle, job.backend, threads=job.threads, precision=job.precision, towers=towers)
    loaded_s = time.perf_counter()
    images = [Path(image) for image in job.images]
    for call in range(job.calls):
        if images:
            model.encode_images(images)
        else:
            model.encode_texts(list(job.texts))
        if call == 0:
            stages_s = {
                "import": imported_s - STARTED_S,
                "load": loaded_s - imported_s,
                "first": time.perf_counter() - loaded_s,
            }
            _write_line(stages_s)
    _write_line({"peak_rss_bytes": peak_rss_bytes()})


def _write_line(value: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def peak_rss_bytes() -> int:
    """The most memory this process has had resident.

    Linux: VmHWM, because `ru_maxrss` is inherited from the parent across fork and exec.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        import resource  # macOS counts in bytes

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    job_file = Path(sys.argv[1])
    run(build(Job, parse_json(job_file.read_bytes(), where=job_file), where=job_file, error=ArtifactError))
