"""Whether idle threads of ONNX Runtime should spin: latency and processor time of a call, by setting.

    python -m clip_edge.benchmarks.spinning BUNDLE [BUNDLE...] --out spinning.json

Threads that wait for their share of the next operation can sleep (`off`), spin as long as ONNX Runtime likes (`on`),
or spin until a call returns (`call`) or for some microseconds. Two threads, one tower, random input, in turns; calls
follow each other at once, or 20 ms apart as from a camera; the machine idle, or with one of its cores taken by another
process. Every sample is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort

from clip_edge.benchmarks.environment import read_environment
from clip_edge.bundle import GOLDEN, TOWERS, Bundle
from clip_edge.files import write_json
from clip_edge.golden import MAX_GOLDEN_BYTES, read_golden
from clip_edge.preprocess import normalize
from clip_edge.schema import as_dict

THREADS = 2
ROUNDS = 8
VISIT_S = 0.25
PAUSES_S = {"at once": 0.0, "every 20 ms": 0.02}
SETTINGS = {
    "off": {"session.intra_op.allow_spinning": "0"},
    "on": {"session.intra_op.allow_spinning": "1"},
    "call": {"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1"},
    "50 us": {"session.intra_op.allow_spinning": "1", "session.intra_op.spin_duration_us": "50"},
    "1000 us": {"session.intra_op.allow_spinning": "1", "session.intra_op.spin_duration_us": "1000"},
}


def open_session(graph: bytes, settings: dict[str, str]) -> ort.InferenceSession:
    """As the runtime opens it, but for the spinning."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.enable_cpu_mem_arena = False
    for name, value in settings.items():
        options.add_session_config_entry(name, value)
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def core_taken(wanted: bool) -> Iterator[None]:
    """Another process that computes without a pause, if wanted."""
    if not wanted:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            yield
        finally:
            busy.kill()


def measure(session: ort.InferenceSession, row: np.ndarray, pause_s: float) -> tuple[list[float], float]:
    """Seconds of each call of one visit, and the processor's seconds for one call, pauses included."""
    name = session.get_inputs()[0].name
    session.run(None, {name: row})
    samples_s: list[float] = []
    busy_s, stop_s = time.process_time(), time.perf_counter() + VISIT_S
    while time.perf_counter() < stop_s or len(samples_s) < 3:
        started_s = time.perf_counter()
        session.run(None, {name: row})
        samples_s.append(time.perf_counter() - started_s)
        time.sleep(pause_s)
    return samples_s, (time.process_time() - busy_s) / len(samples_s)


def measure_tower(graph: bytes, row: np.ndarray) -> list[dict[str, object]]:
    """A result for every setting, pause and load."""
    sessions = {name: open_session(graph, settings) for name, settings in SETTINGS.items()}
    found: list[dict[str, object]] = []
    for taken in (False, True):
        for pause, pause_s in PAUSES_S.items():
            samples_s: dict[str, list[float]] = {name: [] for name in sessions}
            busy_s: dict[str, list[float]] = {name: [] for name in sessions}
            with core_taken(taken):
                for _ in range(ROUNDS):
                    for name, session in sessions.items():
                        visit_s, cpu_s = measure(session, row, pause_s)
                        samples_s[name] += visit_s
                        busy_s[name].append(cpu_s)
            for name in sessions:
                found.append(
                    {
                        "spinning": name,
                        "calls": pause,
                        "core_taken": taken,
                        "p50_s": statistics.median(samples_s[name]),
                        "cpu_s": statistics.median(busy_s[name]),
                        "samples_s": [round(value, 7) for value in samples_s[name]],
                    }
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results = []
    for path in args.bundles:
        bundle = Bundle.open(path)
        golden = read_golden(bundle.read(GOLDEN, MAX_GOLDEN_BYTES), bundle.manifest, path)
        rows: dict[str, np.ndarray] = {
            "image": normalize(golden.pixels[:1], bundle.manifest.image.preprocess),
            "text": golden.input_ids[:1].astype(np.int64),
        }
        for tower in TOWERS:
            for precision in args.precision:
                artifact = bundle.manifest.artifact(tower, ["onnx"], precision)
                for found in measure_tower((path / artifact.path).read_bytes(), rows[tower]):
                    result = {"bundle": bundle.manifest.name, "tower": tower, "precision": precision, **found}
                    results.append(result)
                    words = [str(result[key]) for key in ("bundle", "tower", "precision", "spinning", "calls")]
                    load = "core taken" if result["core_taken"] else "idle"
                    times = f"{1e3 * float(result['p50_s']):8.3f} ms, {1e3 * float(result['cpu_s']):8.3f} ms of CPU"
                    sys.stdout.write(f"{' · '.join(words)} · {load}: {times}\n")
    environment = as_dict(read_environment("not measured"))
    write_json(args.out, {"threads": THREADS, "rounds": ROUNDS, "environment": environment, "results": results})


if __name__ == "__main__":
    main()
