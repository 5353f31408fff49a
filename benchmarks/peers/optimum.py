"""optimum's ONNX export of CLIPModel in ONNX Runtime: one graph for both towers, so each waits for the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clip_edge.benchmarks.peers.job import Opened, PeerJob
from clip_edge.benchmarks.peers.transformers import prepare_of, save_for_others


def open_peer(job: PeerJob) -> Opened:
    """Export as `optimum-cli export onnx` does; the other tower gets one row, the least that the graph takes."""
    import onnxruntime
    from optimum.exporters.onnx import main_export

    folder = Path(job.work)
    save_for_others(job, folder / "model")
    main_export(str(folder / "model"), folder / "onnx", task="zero-shot-image-classification")
    file = folder / "onnx" / "model.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    sides = {item.name: item.shape for item in session.get_inputs()}
    output = "image_embeds" if job.tower == "image" else "text_embeds"
    size = _picture_size(folder / "model")
    idle: dict[str, np.ndarray] = {
        "pixel_values": np.zeros((1, 3, size, size), np.float32),
        "input_ids": np.full((1, 2), 1, np.int64),
        "attention_mask": np.ones((1, 2), np.int64),
    }

    def encode(batch: dict[str, Any]) -> np.ndarray:
        given = {name: np.asarray(value) for name, value in batch.items()}
        if "input_ids" in given:
            given["attention_mask"] = np.ones_like(given["input_ids"])
        feeds = {name: given.get(name, idle[name]) for name in sides}
        embeds = np.asarray(session.run([output], feeds)[0])
        unit: np.ndarray = embeds / np.linalg.norm(embeds, axis=-1, keepdims=True)
        return unit

    return Opened(prepare_of(job), encode, file.stat().st_size, ("optimum-onnx", "onnxruntime", "transformers"))


def _picture_size(folder: Path) -> int:
    import json

    return int(json.loads((folder / "config.json").read_text())["vision_config"]["image_size"])
