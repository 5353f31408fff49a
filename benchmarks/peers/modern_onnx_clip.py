"""modern-onnx-clip: its preprocessing, its tokenizer call and its ONNX Runtime session, on the bundle's fp32 graphs."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clip_edge.benchmarks.peers.graphs import graph_of
from clip_edge.benchmarks.peers.job import Opened, PeerJob
from clip_edge.bundle import TOKENIZER

NAMES = {"image": "visual.onnx", "text": "textual.onnx"}


def open_peer(job: PeerJob) -> Opened:
    """Lay out the folder that it reads: its names for the graphs, its config, the bundle's tokenizer."""
    import onnx_clip
    import onnxruntime
    from PIL import Image

    bundle, _, file = graph_of(job)
    folder = Path(job.work)
    (folder / NAMES[job.tower]).symlink_to(file.resolve())
    shutil.copyfile(bundle.folder / TOKENIZER, folder / "tokenizer.json")
    facts = bundle.manifest
    config = {"image_size": facts.image.preprocess.size, "context_length": facts.text.tokenizer.context_length}
    (folder / "config.json").write_text(json.dumps(config))
    # It has no setting for threads, and its sessions pin one of their own to every core, past the process's own limit.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    onnxruntime.InferenceSession = partial(onnxruntime.InferenceSession, sess_options=options)
    model = onnx_clip.OnnxClip(str(folder), silent=True)
    packages = ("modern-onnx-clip", "onnxruntime")

    def pictures(files: Sequence[Any]) -> Any:
        return model.preprocessor([Image.open(io.BytesIO(file)) for file in files])

    if job.tower == "image":
        return Opened(pictures, model.get_image_embedding, file.stat().st_size, packages)
    return Opened(list, model.get_text_embedding, file.stat().st_size, packages)
