"""The files by which Hugging Face's tools open a bundle: config, preprocessor and tokenizer configuration."""

from __future__ import annotations

import json
from typing import Any

from clip_edge.bundle import Embedding, ImageInput, TextInput
from clip_edge.errors import ExportError
from clip_edge.files import json_bytes
from clip_edge.preprocess import RESAMPLING
from clip_edge.tokenizer import TextSpec


def config(name: str, embedding: Embedding, image: ImageInput, text: TextInput) -> bytes:
    """config.json.

    `model_type` is `clip`, because inputs, outputs and files are those of a CLIP model split into two ONNX graphs.
    Sizes of layers are left out: the graphs hold them, and the towers are not CLIP's.
    """
    tokens = text.tokenizer
    return json_bytes(
        {
            "_name_or_path": name,
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": embedding.dim,
            "logit_scale_init_value": embedding.logit_scale,
            "vision_config": {
                "model_type": "clip_vision_model",
                "image_size": image.preprocess.size,
                "num_channels": 3,
                "projection_dim": embedding.dim,
            },
            "text_config": {
                "model_type": "clip_text_model",
                "vocab_size": tokens.vocab_size,
                "max_position_embeddings": tokens.context_length,
                "projection_dim": embedding.dim,
                "bos_token_id": tokens.bos_id,
                "eos_token_id": tokens.eos_id,
                "pad_token_id": tokens.pad_id,
            },
        }
    )


def preprocessor_config(image: ImageInput) -> bytes:
    """preprocessor_config.json: the fields of CLIPImageProcessor that say the same as our specification."""
    spec = image.preprocess
    square = {"height": spec.size, "width": spec.size}
    return json_bytes(
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": square if spec.resize == "squash" else {"shortest_edge": spec.size},
            "resample": int(RESAMPLING[spec.interpolation]),
            "do_center_crop": image.crop == "center",
            "crop_size": square,
            "do_rescale": True,
            "rescale_factor": image.pixel_scale,
            "do_normalize": True,
            "image_mean": list(spec.mean),
            "image_std": list(spec.std),
        }
    )


def tokenizer_config(tokenizer_json: bytes, spec: TextSpec) -> bytes:
    """tokenizer_config.json: rows of a fixed length, with our own start, end and padding."""
    words = _words(tokenizer_json)
    try:
        begin = {} if spec.bos_id is None else {"bos_token": words[spec.bos_id]}
        eos, pad = words[spec.eos_id], words[spec.pad_id]
    except KeyError as problem:
        raise ExportError(
            f"token id {problem} is not in tokenizer.json",
            hint="the tokenizer and the model do not belong together; train the student again",
        ) from problem
    return json_bytes(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": spec.context_length,
            "padding_side": "right",
            "truncation_side": "right",
            **begin,
            "eos_token": eos,
            "pad_token": pad,
            "clean_up_tokenization_spaces": False,
        }
    )


def _words(tokenizer_json: bytes) -> dict[int, str]:
    """Token id -> token, added tokens last because they win."""
    value: dict[str, Any] = json.loads(tokenizer_json)
    vocab = value["model"]["vocab"]  # Unigram lists [word, log probability]
    words = dict(enumerate(word for word, _ in vocab)) if isinstance(vocab, list) else {vocab[w]: w for w in vocab}
    return words | {token["id"]: token["content"] for token in value.get("added_tokens", [])}
