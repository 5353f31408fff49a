"""OpenVINO on the CPU: the bundle's fp32 graph as it is, or quantised by NNCF with the pictures that are measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clip_edge.benchmarks.peers.graphs import graph_of, prepare_of
from clip_edge.benchmarks.peers.job import CannotRunError, Opened, PeerJob, folder_bytes


def open_peer(job: PeerJob) -> Opened:
    """fp32, or `variant="bf16"`, which it chooses itself where the processor has it, or `"int8"`: NNCF's defaults, and
    its scheme for transformers where the input is text."""
    import openvino

    bundle, _, file = graph_of(job)
    prepare = prepare_of(bundle, job)
    core = openvino.Core()
    hint = "bf16" if job.variant == "bf16" else "f32"
    if hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise CannotRunError("this processor does not multiply bfloat16")
    model = core.read_model(file)
    packages: tuple[str, ...] = ("openvino",)
    if job.variant == "int8":
        import nncf

        items = job.items()
        kind = nncf.ModelType.TRANSFORMER if job.tower == "text" or _has_attention(model) else None
        data = nncf.Dataset([prepare([item]) for item in items])
        model = nncf.quantize(model, data, model_type=kind, subset_size=len(items))
        packages = ("openvino", "nncf")
        file = Path(job.work) / "model.xml"
        openvino.save_model(model, file, compress_to_fp16=False)
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": job.threads, "INFERENCE_PRECISION_HINT": hint}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    size = file.stat().st_size if job.variant != "int8" else folder_bytes(Path(job.work))
    return Opened(prepare, lambda batch: np.array(next(iter(request.infer([batch]).values()))), size, packages)


def _has_attention(model: object) -> bool:
    """Whether most of the work is attention: NNCF's other scheme spoils softmax inputs."""
    return sum(node.get_type_name() == "Softmax" for node in model.get_ops()) > 4  # type: ignore[attr-defined]
