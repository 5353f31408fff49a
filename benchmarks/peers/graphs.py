"""For engines that only run graphs: the bundle's fp32 graph of a tower, and our own preparation of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_edge.benchmarks.peers.job import CannotRunError, PeerJob
from clip_edge.bundle import TOKENIZER, Artifact, Bundle
from clip_edge.errors import BundleError
from clip_edge.files import MAX_JSON_BYTES
from clip_edge.images import open_image
from clip_edge.preprocess import normalize, to_pixels
from clip_edge.tokenizer import Tokenizer


def graph_of(job: PeerJob) -> tuple[Bundle, Artifact, Path]:
    """The bundle, its fp32 ONNX artefact of the job's tower, and the file.

    Raises:
        CannotRunError: the bundle has none.
    """
    bundle = Bundle.open(Path(job.bundle), verify_hashes=False)
    try:
        artifact = bundle.manifest.artifact(job.tower, ["onnx"], "fp32")
    except BundleError as problem:
        raise CannotRunError(f"it needs a graph of target onnx in fp32: {problem.what}") from problem
    return bundle, artifact, bundle.folder / artifact.path


def prepare_of(bundle: Bundle, job: PeerJob) -> Callable[[Sequence[Any]], np.ndarray]:
    """Encoded pictures -> (N, 3, S, S) float32, or sentences -> (N, L) int64, as the bundle says."""
    spec = bundle.manifest.image.preprocess
    if job.tower == "image":
        return lambda files: np.stack([normalize(to_pixels(open_image(file), spec), spec) for file in files])
    return Tokenizer.load(bundle.read(TOKENIZER, MAX_JSON_BYTES), bundle.manifest.text.tokenizer)
