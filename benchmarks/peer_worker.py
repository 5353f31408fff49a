"""One engine in one process, for `peers.py`: loads a model, embeds a few rows, then times one query per line read.

Needs NumPy and the engine only, so that it runs in an environment without clip-edge.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]
WARM_UP = 3


def _onnxruntime(model: str, threads: int, rows: np.ndarray) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: np.asarray(session.run(None, {name: batch})[0])


def _compiled(model: Any, threads: int) -> Run:
    openvino = import_module("openvino")
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda batch: np.array(next(iter(request.infer([batch]).values())))


def _openvino(model: str, threads: int, rows: np.ndarray) -> Run:
    openvino = import_module("openvino")
    return _compiled(openvino.Core().read_model(model), threads)


def _nncf(model: str, threads: int, rows: np.ndarray) -> Run:
    """OpenVINO's int8 by NNCF with its defaults, for transformers where the rows are token ids."""
    nncf, openvino = import_module("nncf"), import_module("openvino")
    kind = nncf.ModelType.TRANSFORMER if rows.dtype == np.int64 else None
    data = nncf.Dataset([rows[i : i + 1] for i in range(len(rows))])
    whole = openvino.Core().read_model(model)
    return _compiled(nncf.quantize(whole, data, model_type=kind, subset_size=len(rows)), threads)


ENGINES = {"onnxruntime": _onnxruntime, "openvino": _openvino, "nncf": _nncf}
PACKAGES = {"onnxruntime": ["onnxruntime"], "openvino": ["openvino"], "nncf": ["openvino", "nncf"]}


def main() -> None:
    engine, threads, model, file = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    answers, sys.stdout = sys.stdout, sys.stderr  # engines print; the pipe is for answers
    rows = np.load(file, allow_pickle=False)
    run = ENGINES[engine](model, threads, rows)
    embeds = np.concatenate([run(rows[i : i + 1]) for i in range(len(rows))])
    for line in ({name: version(name) for name in PACKAGES[engine]}, embeds.tolist()):
        answers.write(json.dumps(line) + "\n")
    answers.flush()
    for _ in range(WARM_UP):
        run(rows[:1])
    for turn, _ in enumerate(sys.stdin):
        row = rows[turn % len(rows)][None]
        started_s = time.process_time()  # CPU time: waiting for a core is not the engine's doing
        run(row)
        answers.write(f"{time.process_time() - started_s:.9f}\n")
        answers.flush()


if __name__ == "__main__":
    main()
