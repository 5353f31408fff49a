"""Whether the harness itself can be believed: its cost, its agreement with other tools, and what `--compare` finds.

    python -m clip_edge.benchmarks.harness_proof BUNDLE --out benchmarks/results/harness.json

Four proofs, each as figures in the file: what the sampler adds to a query of a millisecond; cold starts beside
`hyperfine`; the encode stage beside a bare loop over ONNX Runtime; and, at the default settings, whether a planted
slowdown of 5 % is found and no change is not flagged, so many times each. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from clip_edge.benchmarks.child import Job, launch
from clip_edge.benchmarks.environment import read_environment
from clip_edge.benchmarks.plan import golden_workload
from clip_edge.benchmarks.scenarios import Rules, Sampler, timed
from clip_edge.benchmarks.stats import compare
from clip_edge.bundle import Bundle
from clip_edge.files import write_json
from clip_edge.images import open_image
from clip_edge.runtime import load
from clip_edge.runtime.backends import Options, open_inputs, open_tower
from clip_edge.schema import as_dict

Work = Callable[[], Mapping[str, float]]
MILLISECOND = 1e-3
PLANTED = 0.05


def overhead(rounds: int = 30, queries: int = 100) -> dict[str, Any]:
    """A query that spins for a millisecond, in the sampler and in a bare loop, in turns."""

    def spin() -> Mapping[str, float]:
        stop_s = time.perf_counter() + MILLISECOND
        while time.perf_counter() < stop_s:
            pass
        return {"decode": 0.0, "preprocess": 0.0, "encode": MILLISECOND}

    bare_s: list[float] = []
    walls = {"bare": 0.0, "sampler": 0.0}
    sampler = Sampler(timed(spin), Rules(0.0, 0, 0, 0.0, 1, 1e9, 1.0, queries * MILLISECOND))
    for _ in range(rounds):
        begin_s = time.perf_counter()
        for _ in range(queries):
            started_s = time.perf_counter()
            spin()
            bare_s.append(time.perf_counter() - started_s)
        middle_s = time.perf_counter()
        taken = len(sampler.samples_s)
        sampler.visit()
        ended_s = time.perf_counter()
        walls["bare"] += (middle_s - begin_s) / queries
        walls["sampler"] += (ended_s - middle_s) / (len(sampler.samples_s) - taken)
    in_sample = median(sampler.samples_s) / median(bare_s) - 1
    return {
        "query_s": MILLISECOND,
        "bare_p50_s": median(bare_s),
        "sampler_p50_s": median(sampler.samples_s),
        "added_to_a_sample": in_sample,
        "added_to_the_wall_time": walls["sampler"] / walls["bare"] - 1,
        "allowed": 0.01,
        "passed": in_sample <= 0.01,
    }


def cold_starts(bundle: Path, runs: int = 12) -> dict[str, Any]:
    """The same process by `launch` and by hyperfine, whose clock ends with the process; both spans are told."""
    if shutil.which("hyperfine") is None:
        return {"skipped": "hyperfine is not installed"}
    text = golden_workload(Bundle.open(bundle)).texts[0]
    job = Job(str(bundle.resolve()), "onnxruntime", "fp32", 1, (), (text,), 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        launch(job, folder)
        first_s, whole_s, theirs_s = [], [], []
        for _ in range(runs):
            started_s = time.perf_counter()
            first_s.append(launch(job, folder).first_embedding_s)
            whole_s.append(time.perf_counter() - started_s)
            command = f"{sys.executable} -m clip_edge.benchmarks.child {folder / 'job.json'}"
            told = folder / "hyperfine.json"
            words = ["hyperfine", "-N", "--runs", "2", "--style", "none", "--export-json", str(told), command]
            subprocess.run(words, check=True, capture_output=True)
            theirs_s += json.loads(told.read_text())["results"][0]["times"]
    ratio = compare(theirs_s, whole_s)
    return {
        "first_embedding_p50_s": median(first_s),
        "launch_to_exit_p50_s": median(whole_s),
        "hyperfine_p50_s": median(theirs_s),
        "ours_over_hyperfine": ratio.ratio,
        "interval": [ratio.ratio_low, ratio.ratio_high],
        "passed": ratio.verdict == "same",
    }


def encode_stage(bundle: Path, rounds: int = 20, queries: int = 50) -> dict[str, Any]:
    """The stage `encode` of the image tower, beside a bare loop that prepares the same picture and times the engine."""
    opened = Bundle.open(bundle)
    picture = golden_workload(opened).images[0]
    model = load(bundle, threads=1, precision="fp32", towers=["image"])
    artifact = opened.manifest.artifact("image", ["onnx"], "fp32")
    run = open_tower("onnxruntime", opened, artifact, Options(1))
    values = open_inputs("onnxruntime", opened).values
    sampler = Sampler(timed(_embed(model, picture)), Rules(0.1, 5, 1, 0.0, 1, 1e9, 1.0, 0.05))
    bare_s: list[float] = []
    for _ in range(rounds):
        sampler.visit()
        for _ in range(queries):
            batch = np.stack([values(open_image(picture))])
            started_s = time.perf_counter()
            run(batch)
            bare_s.append(time.perf_counter() - started_s)
    ours_s = sampler.stages_s["encode"]
    ratio = compare(bare_s, ours_s)
    return {
        "encode_p50_s": median(ours_s),
        "bare_p50_s": median(bare_s),
        "ours_over_bare": ratio.ratio,
        "interval": [ratio.ratio_low, ratio.ratio_high],
        "passed": ratio.verdict == "same",
    }


def _embed(model: Any, picture: bytes) -> Work:
    def query() -> Mapping[str, float]:
        model.encode_images([picture])
        return model.timings  # type: ignore[no-any-return]

    return query


def guard(bundle: Path, times: int) -> dict[str, Any]:
    """Two measurements after one another at the default settings, alike or with 5 % added to each query."""
    picture = golden_workload(Bundle.open(bundle)).images[0]
    plain = _embed(load(bundle, threads=1, precision="fp32", towers=["image"]), picture)

    def slower() -> Mapping[str, float]:
        started_s = time.perf_counter()
        stages_s = plain()
        stop_s = started_s + (1 + PLANTED) * (time.perf_counter() - started_s)
        while time.perf_counter() < stop_s:
            pass
        return stages_s

    found: dict[str, list[dict[str, Any]]] = {"planted": [], "unchanged": []}
    for _ in range(times):
        for name, work in (("planted", slower), ("unchanged", plain)):
            old, new = _measured(plain), _measured(work)
            found[name].append(as_dict(compare(old, new)) | {"samples": [len(old), len(new)]})
    caught = sum(one["verdict"] == "slower" for one in found["planted"])
    flagged = sum(one["verdict"] != "same" for one in found["unchanged"])
    return {
        "planted": PLANTED,
        "caught": f"{caught} of {times}",
        "falsely_flagged": f"{flagged} of {times}",
        "passed": caught == times and flagged == 0,
        "comparisons": found,
    }


def _measured(work: Work) -> list[float]:
    sampler = Sampler(timed(work))
    while not sampler.finished:
        sampler.visit()
    return sampler.samples_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--times", type=int, default=20, help="comparisons of each kind (default: 20)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    args = parser.parse_args()
    report: dict[str, Any] = {"environment": as_dict(read_environment()), "rules": as_dict(Rules())}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "overhead": overhead,
        "encode_stage": lambda: encode_stage(args.bundle),
        "cold_start": lambda: cold_starts(args.bundle),
        "guard": lambda: guard(args.bundle, args.times),
    }
    for name, part in parts.items():
        report[name] = part()
        write_json(args.out, report)  # what is known stays, whatever the next part does


if __name__ == "__main__":
    main()
