"""modern-onnx-clip: its preprocessing, its tokenizer call and its ONNX Runtime session, on the bundle's fp32 graphs."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_edge.benchmarks.peers.graphs import graph_of
from clip_edge.benchmarks.peers.job import Opened, PeerJob, use_cores
from clip_edge.bundle import TOKENIZER

NAMES = {"image": "visual.onnx", "text": "textual.onnx"}


def open_peer(job: PeerJob) -> Opened:
    """Lay out the folder that it reads: its names for the graphs, its config, the bundle's tokenizer."""
    use_cores(job.threads)  # its sessions take every core that they may
    import onnx_clip
    from PIL import Image

    bundle, _, file = graph_of(job)
    folder = Path(job.work)
    (folder / NAMES[job.tower]).symlink_to(file.resolve())
    shutil.copyfile(bundle.folder / TOKENIZER, folder / "tokenizer.json")
    facts = bundle.manifest
    config = {"image_size": facts.image.preprocess.size, "context_length": facts.text.tokenizer.context_length}
    (folder / "config.json").write_text(json.dumps(config))
    model = onnx_clip.OnnxClip(str(folder), silent=True)
    packages = ("modern-onnx-clip", "onnxruntime")

    def pictures(files: Sequence[Any]) -> Any:
        return model.preprocessor([Image.open(io.BytesIO(file)) for file in files])

    if job.tower == "image":
        return Opened(pictures, model.get_image_embedding, file.stat().st_size, packages)
    return Opened(list, model.get_text_embedding, file.stat().st_size, packages)
