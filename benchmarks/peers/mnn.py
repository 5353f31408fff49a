"""MNN on the CPU: the bundle's fp32 graph through MNN's own converter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from clip_edge.benchmarks.peers.graphs import graph_of, prepare_of
from clip_edge.benchmarks.peers.job import CannotRunError, Opened, PeerJob


def open_peer(job: PeerJob) -> Opened:
    """Convert, load, and run as a module of one input and one output."""
    bundle, artifact, file = graph_of(job)
    made = Path(job.work) / "model.mnn"
    words = ["-f", "ONNX", "--modelFile", str(file), "--MNNModel", str(made), "--bizCode", "clip"]
    done = subprocess.run([Path(sys.executable).with_name("mnnconvert"), *words], capture_output=True, text=True)
    if not made.is_file():
        last = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["it said nothing"]
        raise CannotRunError(f"mnnconvert made no model: {last[0]}")

    import MNN

    manager = MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": job.threads, "precision": "high"},))
    module = MNN.nn.load_module_from_file(str(made), [artifact.input], [artifact.output], runtime_manager=manager)
    text = job.tower == "text"

    def encode(batch: np.ndarray) -> np.ndarray:
        values = batch.astype(np.int32) if text else batch
        kind = MNN.numpy.int32 if text else MNN.numpy.float32
        layout = MNN.expr.NCHW
        given = MNN.expr.const(values, list(values.shape), layout, kind)
        return np.array(MNN.expr.convert(module.forward([given])[0], layout).read())

    return Opened(prepare_of(bundle, job), encode, made.stat().st_size, ("MNN",))
