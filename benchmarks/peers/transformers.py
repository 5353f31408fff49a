"""Hugging Face transformers: CLIPModel with the same weights, its image processor and its tokenizer."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_edge.benchmarks.peers.job import CannotRunError, Opened, PeerJob
from clip_edge.benchmarks.peers.open_clip import config_of, open_model

FOLDER = "hf:"


def open_peer(job: PeerJob) -> Opened:
    """CLIPModel in PyTorch, eager."""
    import torch

    torch.set_num_threads(job.threads)
    model = hugging_face_model(job)
    features = model.get_image_features if job.tower == "image" else model.get_text_features
    size = sum(value.numel() * value.element_size() for value in tower_of(model, job.tower).parameters())

    def encode(batch: Any) -> np.ndarray:
        with torch.inference_mode():
            embeds = features(**batch)
            return np.asarray((embeds / embeds.norm(dim=-1, keepdim=True)).numpy())

    return Opened(prepare_of(job), encode, size, ("transformers", "torch"))


def tower_of(model: Any, tower: str) -> Any:
    """The part of CLIPModel that one tower's embedding goes through, without its projection."""
    return model.vision_model if tower == "image" else model.text_model


def prepare_of(job: PeerJob) -> Callable[[Sequence[Any]], Any]:
    """The processor or tokenizer that transformers makes of the files in the bundle."""
    hub = _hub()
    if job.tower == "image":
        processor = hub.AutoImageProcessor.from_pretrained(job.bundle)
        return lambda files: dict(
            processor([_pixels(file) for file in files], input_data_format="channels_last", return_tensors="pt")
        )
    tokenizer = hub.AutoTokenizer.from_pretrained(job.bundle)
    return lambda texts: {
        "input_ids": tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    }


def _pixels(file: bytes) -> np.ndarray:
    """(H, W, 3): a picture three pixels high would otherwise be taken for three channels."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def hugging_face_model(job: PeerJob) -> Any:
    """The model in eval mode: a folder of transformers as it is, or open_clip's weights under other names.

    Raises:
        CannotRunError: transformers has no such architecture.
    """
    if job.source.startswith(FOLDER):
        return _hub().CLIPModel.from_pretrained(job.source.removeprefix(FOLDER)).eval()
    config = config_of(job)
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or "hf_model_name" in text or not isinstance(vision["layers"], int):
        raise CannotRunError(f"transformers has no such CLIPModel: the bundle was exported from `{job.source}`")
    model, _ = open_model(job)
    return _converted(model, config)


def _converted(model: Any, config: dict[str, Any]) -> Any:
    hub = _hub()
    act = "quick_gelu" if config.get("quick_gelu") else "gelu"
    vision, text = config["vision_cfg"], config["text_cfg"]
    head = vision.get("head_width", 64)
    made = hub.CLIPModel(
        hub.CLIPConfig(
            projection_dim=config["embed_dim"],
            vision_config={
                **_sizes(vision["width"], vision["layers"], vision["width"] // head, act),
                "image_size": vision["image_size"],
                "patch_size": vision["patch_size"],
            },
            text_config={
                **_sizes(text["width"], text["layers"], text["heads"], act),
                "max_position_embeddings": text["context_length"],
                "vocab_size": text["vocab_size"],
                # transformers finds a sentence's end by this id; 2 would mean a rule for old configurations.
                "eos_token_id": text["vocab_size"] - 1,
                "bos_token_id": text["vocab_size"] - 2,
            },
        )
    )
    made.load_state_dict(_renamed(model.state_dict()), strict=False)
    return made.eval()


def _sizes(width: int, layers: int, heads: int, act: str) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    return {**sizes, "num_attention_heads": heads, "hidden_act": act}


# open_clip's names -> transformers', where a tensor only changes its name.
WHOLE = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    **{f"visual.ln_pre.{kind}": f"vision_model.pre_layrnorm.{kind}" for kind in ("weight", "bias")},
    **{f"visual.ln_post.{kind}": f"vision_model.post_layernorm.{kind}" for kind in ("weight", "bias")},
    **{f"ln_final.{kind}": f"text_model.final_layer_norm.{kind}" for kind in ("weight", "bias")},
}
BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def _renamed(state: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in state.items():
        if name in WHOLE:
            found[WHOLE[name]] = value
        elif name in ("visual.proj", "text_projection"):
            found[f"{'visual' if name == 'visual.proj' else 'text'}_projection.weight"] = value.T.contiguous()
        elif ".resblocks." in f".{name}":
            _rename_block(name, value, found)
    return found


def _rename_block(name: str, value: Any, found: dict[str, Any]) -> None:
    tower = "vision_model" if name.startswith("visual.") else "text_model"
    number, _, rest = name.partition("resblocks.")[2].partition(".")
    layer = f"{tower}.encoder.layers.{number}"
    if rest.startswith("attn.in_proj_"):
        kind = rest.removeprefix("attn.in_proj_")
        for part, piece in zip("qkv", value.chunk(3), strict=True):
            found[f"{layer}.self_attn.{part}_proj.{kind}"] = piece.contiguous()
        return
    module, _, kind = rest.rpartition(".")
    found[f"{layer}.{BLOCK[module]}.{kind}"] = value


def save_for_others(job: PeerJob, folder: Path) -> None:
    """The model and its processors as a folder of transformers, for tools that read such folders."""
    hugging_face_model(job).save_pretrained(folder)
    for kind in (_hub().AutoImageProcessor, _hub().AutoTokenizer):
        kind.from_pretrained(job.bundle).save_pretrained(folder)


def _hub() -> Any:
    import transformers

    return transformers
