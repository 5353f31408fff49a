"""The files for Hugging Face's tools say the same as the manifest, and the tokenizer file works alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers

from clip_edge.bundle import GOLDEN, Bundle, ImageInput
from clip_edge.errors import ExportError
from clip_edge.export import huggingface
from clip_edge.golden import read_golden
from clip_edge.preprocess import PreprocessSpec
from clip_edge.tokenizer import TextSpec


def test_config_says_the_sizes(tiny_bundle: Path) -> None:
    config = json.loads((tiny_bundle / "config.json").read_text())
    manifest = Bundle.open(tiny_bundle).manifest
    assert config["model_type"] == "clip"
    assert config["projection_dim"] == manifest.embedding.dim == 24
    assert config["vision_config"]["image_size"] == 32
    assert config["text_config"]["max_position_embeddings"] == 16
    assert config["text_config"]["eos_token_id"] == manifest.text.tokenizer.eos_id


def test_preprocessor_config_says_the_same_as_the_specification() -> None:
    spec = PreprocessSpec(96, "shortest", "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    value = json.loads(huggingface.preprocessor_config(ImageInput(spec, "center")))
    assert value == {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": 96},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": 96, "width": 96},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
    squashed = json.loads(huggingface.preprocessor_config(ImageInput(PreprocessSpec(96, "squash"), "none")))
    assert squashed["size"] == {"height": 96, "width": 96}
    assert squashed["do_center_crop"] is False
    assert squashed["resample"] == 3


def test_the_tokenizer_files_alone_give_the_golden_ids(tiny_bundle: Path) -> None:
    """What transformers and transformers.js do with them: special tokens added, cut and padded to the full length."""
    settings = json.loads((tiny_bundle / "tokenizer_config.json").read_text())
    golden = read_golden((tiny_bundle / GOLDEN).read_bytes(), Bundle.open(tiny_bundle).manifest, tiny_bundle)
    encoder = tokenizers.Tokenizer.from_file(str(tiny_bundle / "tokenizer.json"))
    length = settings["model_max_length"]
    pad_id = encoder.token_to_id(settings["pad_token"])
    encoder.enable_truncation(length)
    encoder.enable_padding(length=length, pad_id=pad_id, pad_token=settings["pad_token"])
    rows = [encoding.ids for encoding in encoder.encode_batch(list(golden.texts))]
    assert rows == golden.input_ids.tolist()


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    data = json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": "<s>"}]}).encode()
    with pytest.raises(ExportError) as caught:
        huggingface.tokenizer_config(data, TextSpec(8, 300, 0, 1, 299, "none"))
    assert caught.value.what == "token id 299 is not in tokenizer.json"
