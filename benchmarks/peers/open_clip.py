"""open_clip in PyTorch: its model, its transforms, its tokenizer; eager or under torch.compile."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_edge.benchmarks.peers.job import CannotRunError, Opened, PeerJob

FAMILY = "open_clip:"
LOCAL = "local-dir:"
CONFIG = "open_clip_config.json"


def open_peer(job: PeerJob) -> Opened:
    """`variant="compile"` compiles what encodes, for the one batch size that is measured."""
    import torch

    torch.set_num_threads(job.threads)
    model, prepare = open_model(job)
    encode = model.encode_image if job.tower == "image" else model.encode_text
    if job.variant == "compile":
        encode = torch.compile(encode, dynamic=False)

    def run(batch: Any) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(encode(batch, normalize=True).numpy())

    return Opened(prepare, run, parameter_bytes(model, job.tower), ("open_clip_torch", "timm", "torch"))


def open_model(job: PeerJob) -> tuple[Any, Callable[[Sequence[Any]], Any]]:
    """The model that the bundle was exported from, in eval mode, and what prepares its inputs.

    Raises:
        CannotRunError: the bundle was made from something that open_clip does not know.
    """
    import open_clip
    import torch
    from PIL import Image
    from timm.utils.model import reparameterize_model

    name, weights = name_of(job)
    if name.startswith(LOCAL):
        model = open_clip.create_model(name, weights_only=True)
    elif weights == "random":
        torch.manual_seed(0)  # as the exporter does; whether it is the same model, the embeddings show
        model = open_clip.create_model(name, load_weights=False, pretrained_text=False)
    else:
        model = open_clip.create_model(name, pretrained=weights, weights_only=True)
    model = reparameterize_model(model.eval())
    if job.tower == "image":
        settings = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
        transform = open_clip.transform.image_transform_v2(settings, is_train=False)
        return model, lambda files: torch.stack([transform(Image.open(io.BytesIO(file))) for file in files])
    return model, open_clip.get_tokenizer(name)


def name_of(job: PeerJob) -> tuple[str, str]:
    """open_clip's name of the model, which may be a folder, and its weights: a tag, a file, `random`, or nothing.

    Raises:
        CannotRunError: as `open_model`.
    """
    if not job.source.startswith(FAMILY):
        raise CannotRunError(f"open_clip has no such model: the bundle was exported from `{job.source}`")
    rest = job.source.removeprefix(FAMILY)
    if (Path(rest) / CONFIG).is_file():
        return f"{LOCAL}{rest}", ""
    name, _, weights = rest.partition(":")
    return name, weights


def config_of(job: PeerJob) -> dict[str, Any]:
    """open_clip's configuration of the model.

    Raises:
        CannotRunError: as `open_model`.
    """
    import open_clip

    name, _ = name_of(job)
    if name.startswith(LOCAL):
        return dict(json.loads((Path(name.removeprefix(LOCAL)) / CONFIG).read_text())["model_cfg"])
    return dict(open_clip.get_model_config(name))


def parameter_bytes(model: Any, tower: str) -> int:
    """The memory of one tower's weights; open_clip keeps the text tower's beside everything else."""
    seen = {id(value): value.numel() * value.element_size() for value in model.visual.parameters()}
    whole = {id(value): value.numel() * value.element_size() for value in model.parameters()}
    image: int = sum(seen.values())
    return image if tower == "image" else sum(whole.values()) - image
