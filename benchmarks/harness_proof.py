"""Whether the harness itself can be believed: its cost, its agreement with other tools, and what `--compare` finds.

    python -m clip_edge.benchmarks.harness_proof BUNDLE --rounds DIR --out benchmarks/results/xeon/harness.json

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from clip_edge.benchmarks.child import Job, launch
from clip_edge.benchmarks.environment import read_environment
from clip_edge.benchmarks.plan import golden_workload
from clip_edge.benchmarks.reference import ReferenceLoad, identity
from clip_edge.benchmarks.scenarios import Rules, Sampler, timed
from clip_edge.benchmarks.stats import Floats, compare, compare_floors
from clip_edge.bundle import Bundle
from clip_edge.files import read_json, write_json
from clip_edge.images import open_image
from clip_edge.runtime import load
from clip_edge.runtime.backends import Options, open_inputs, open_tower
from clip_edge.schema import as_dict

Work = Callable[[], Mapping[str, float]]
Series = Mapping[str, Floats]
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


def guard(bundle: Path, times: int, folder: Path, until_s: float) -> dict[str, Any]:
    """Rounds of three measurements at the default settings: twice the same, and once with 5 % added to each query.

    Rounds are kept in `folder`, one file each, so that they can be taken in several goes; those still to come when
    `until_s` (of `time.monotonic`) has passed are left to the next. A round compares the first measurement with the
    other two; `apart` compares it with those of a round that lies half of the rounds away.
    """
    picture = golden_workload(Bundle.open(bundle)).images[0]
    plain = _embed(load(bundle, threads=1, precision="fp32", towers=["image"]), picture)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(times):
        file = folder / f"round-{number:02d}.npz"
        if not file.exists() and time.monotonic() < until_s:
            series: dict[str, Any] = {}
            for name, work in (("first", plain), ("same", plain), ("slower", _planted(plain))):
                series[name], series[f"{name}_reference"] = _measured(work)
            np.savez(file, **series)
    rounds = [dict(np.load(file)) for file in sorted(folder.glob("round-*.npz"))]
    far = [rounds[(i + len(rounds) // 2) % len(rounds)] for i in range(len(rounds))]
    return {
        "planted": PLANTED,
        "rounds": len(rounds),
        "in_one_round": _judged(rounds, rounds),
        "apart": _judged(rounds, far),
        "of_twice_the_time": _judged(_joined(rounds), _joined(rounds)),
        "queries_of_a_measurement": median(len(one["first"]) for one in rounds),
    }


def _planted(plain: Work) -> Work:
    def slower() -> Mapping[str, float]:
        started_s = time.perf_counter()
        stages_s = plain()
        stop_s = started_s + (1 + PLANTED) * (time.perf_counter() - started_s)
        while time.perf_counter() < stop_s:
            pass
        return stages_s

    return slower


def _measured(work: Work) -> tuple[list[float], list[float]]:
    sampler = Sampler(timed(work), reference=ReferenceLoad())
    while not sampler.finished:
        sampler.visit()
    return sampler.samples_s, sampler.reference_s


def _judged(rounds: Sequence[Series], others: Sequence[Series]) -> dict[str, Any]:
    """The first measurement of each round against the other two of its partner: over the load, and by plain medians."""
    found: dict[str, Any] = {}
    for kind, name in (("planted", "slower"), ("unchanged", "same")):
        over_load, medians = [], []
        for was, now in zip(rounds, others, strict=True):
            load_s = was["first_reference"], now[f"{name}_reference"]
            over_load.append(compare_floors(was["first"], now[name], *load_s))
            medians.append(compare(was["first"], now[name]))
        for way, verdicts in (("", over_load), ("_by_medians", medians)):
            for verdict in ("slower", "faster"):
                found[f"{kind}_called_{verdict}{way}"] = sum(one.verdict == verdict for one in verdicts)
            found[f"{kind}_ratios{way}"] = [round(one.ratio, 4) for one in verdicts]
    found["passed"] = (
        found["planted_called_slower"] == len(rounds)
        and found["unchanged_called_slower"] == found["unchanged_called_faster"] == 0
    )
    return found


def _joined(rounds: Sequence[Series]) -> list[Series]:
    """Measurements of twice the length: a round's two plain ones, the next round's, and two planted ones."""
    found: list[Series] = []
    for i, one in enumerate(rounds):
        after, last = rounds[(i + 1) % len(rounds)], rounds[(i + 2) % len(rounds)]
        parts = {
            "first": (one["first"], one["same"]),
            "first_reference": (one["first_reference"], one["same_reference"]),
            "same": (after["first"], after["same"]),
            "same_reference": (after["first_reference"], after["same_reference"]),
            "slower": (after["slower"], last["slower"]),
            "slower_reference": (after["slower_reference"], last["slower_reference"]),
        }
        found.append({name: np.concatenate(pair) for name, pair in parts.items()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--times", type=int, default=20, help="rounds of the guard (default: 20)")
    parser.add_argument("--minutes", type=float, default=60.0, help="start no round of the guard after these (60)")
    parser.add_argument("--only", choices=("overhead", "encode_stage", "cold_start", "guard"), help="one proof")
    parser.add_argument("--rounds", type=Path, required=True, metavar="DIR", help="keeps the rounds of the guard")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    args = parser.parse_args()
    until_s = time.monotonic() + 60 * args.minutes
    report: dict[str, Any] = read_json(args.out, hint="") if args.out.exists() else {}
    report |= {"environment": as_dict(read_environment()), "rules": as_dict(Rules()), "reference": identity()}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "overhead": overhead,
        "encode_stage": lambda: encode_stage(args.bundle),
        "cold_start": lambda: cold_starts(args.bundle),
        "guard": lambda: guard(args.bundle, args.times, args.rounds, until_s),
    }
    for name, part in parts.items():
        if args.only in (None, name):
            report[name] = part()
            write_json(args.out, report)  # what is known stays, whatever the next part does


if __name__ == "__main__":
    main()
