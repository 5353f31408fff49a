"""Models of other libraries give the numbers that their own library gives, from the picture and the sentence on."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clip_edge.distill.models import from_open_clip
from clip_edge.distill.models.pretrained import Pretrained, is_pretrained, load_pretrained
from clip_edge.errors import CheckpointError, ConfigError, UnavailableError, UsageError
from clip_edge.preprocess import normalize, to_pixels

Make = Callable[[str], Path]
SENTENCES = [
    "a photo of a Cat",
    "Two_dogs, and 3 cars!",
    "ein  Apfel &amp; <b>Äpfel</b>",
    "一只红色的猫",
    "",
    "word " * 60,
]
OPEN_CLIP = ("mobileclip", "quickgelu", "siglip", "xlmr", "mt5")
HUGGING_FACE = ("clip", "siglip", "chinese_clip", "altclip")


def pictures() -> list[Image.Image]:
    """Sizes whose crop offset is a half, and others; soft, as photos are."""
    random = np.random.default_rng(0)
    small = [random.integers(0, 256, (5, 6, 3), dtype=np.uint8) for _ in range(4)]
    sizes = [(70, 41), (33, 90), (32, 32), (200, 133)]
    return [Image.fromarray(one).resize(size, Image.Resampling.BICUBIC) for one, size in zip(small, sizes, strict=True)]


def ours(loaded: Pretrained) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = np.stack([normalize(to_pixels(picture, loaded.preprocess), loaded.preprocess) for picture in pictures()])
    with torch.inference_mode():
        images, texts = (
            loaded.image(torch.from_numpy(pixels)),
            loaded.text(torch.from_numpy(loaded.tokenizer(SENTENCES))),
        )
    return torch.nn.functional.normalize(images, dim=-1), torch.nn.functional.normalize(texts, dim=-1)


def check(loaded: Pretrained, images: torch.Tensor, texts: torch.Tensor) -> None:
    own_images, own_texts = ours(loaded)
    torch.testing.assert_close(own_images, images, atol=2e-5, rtol=0)
    torch.testing.assert_close(own_texts, texts, atol=2e-5, rtol=0)
    for rows in (images, texts):  # a tower that ignores its input would agree with itself
        assert float((rows - rows[0]).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", OPEN_CLIP)
def test_open_clip(kind: str, foreign_model: Make) -> None:
    folder = foreign_model(f"open_clip:{kind}")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.inference_mode():
        images = model.encode_image(torch.stack([transform(picture) for picture in pictures()]), normalize=True)
        texts = model.encode_text(tokenizer(SENTENCES), normalize=True)
    loaded = load_pretrained(f"open_clip:{folder}")
    check(loaded, images, texts)
    assert loaded.tokenizer(SENTENCES).tolist() == tokenizer(SENTENCES).tolist()
    assert loaded.facts is not None
    expected = {
        "mobileclip": (False, False, "eos", "gelu"),
        "quickgelu": (True, False, "eos", "quick_gelu"),
        "siglip": (False, False, "last", "gelu"),
        "xlmr": (False, True, "mean", "gelu"),
        "mt5": (False, True, "mean", "gated-gelu"),
    }
    facts = loaded.facts
    assert (facts.causal, facts.pad_mask, facts.pooling, facts.activation) == expected[kind]
    scale, bias = loaded.logits()
    assert scale == pytest.approx(model.logit_scale.exp().item())
    assert (bias is not None) == (kind == "siglip")


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_hugging_face(kind: str, foreign_model: Make) -> None:
    transformers = pytest.importorskip("transformers")
    folder = foreign_model(f"hf:{kind}")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(SENTENCES, padding="max_length", truncation=True, max_length=24, return_tensors="pt")
    inputs = {
        "input_ids": tokens["input_ids"],
        "pixel_values": processor(pictures(), return_tensors="pt")["pixel_values"],
    }
    if kind != "siglip":  # trained without a mask
        inputs["attention_mask"] = tokens["attention_mask"]
    with torch.inference_mode():
        out = model(**inputs)
    unit = torch.nn.functional.normalize
    check(load_pretrained(f"hf:{folder}"), unit(out.image_embeds, dim=-1), unit(out.text_embeds, dim=-1))


def test_names() -> None:
    assert is_pretrained("open_clip:ViT-B-32:openai")
    assert is_pretrained("hf:some/model")
    assert not is_pretrained("runs/demo")
    assert not is_pretrained("open_clip:")


@pytest.mark.parametrize(
    ("source", "what", "hint"),
    [
        (
            "open_clip:ViT-B-32:openai",
            "`openai` was trained with another activation than ViT-B-32: its embeddings would be wrong",
            "name the variant of the model that fits: open_clip:ViT-B-32-quickgelu:openai",
        ),
        (
            "open_clip:ViT-B-32-quickgelu:laion2b_s34b_b79k",
            "unknown tag or file for ViT-B-32-quickgelu: `laion2b_s34b_b79k`",
            "",
        ),
    ],
)
def test_weights_of_another_activation(source: str, what: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_pretrained(source)
    assert caught.value.what == what
    assert caught.value.exit_code == 2
    assert hint in (caught.value.hint or "")


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def test_weights_that_do_not_fit_the_configuration(foreign_model: Make, tmp_path: Path) -> None:
    folder = copied(foreign_model("hf:clip"), tmp_path / "clip")
    state = load_file(folder / "model.safetensors")
    state["odd.weight"] = state.pop("text_model.final_layer_norm.bias")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(f"hf:{folder}")
    assert caught.value.what == (
        "the weights do not fit config.json:\n  missing: text_model.final_layer_norm.bias\n  surplus: odd.weight"
    )
    folder = copied(foreign_model("open_clip:quickgelu"), tmp_path / "open_clip")
    state = load_file(folder / "open_clip_model.safetensors")
    del state["ln_final.bias"]
    save_file(state, folder / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError, match=r"(?s)open_clip cannot load these weights: .*Missing key.*ln_final.bias"):
        load_pretrained(f"open_clip:{folder}")


def test_positions_are_not_resized_without_a_word(foreign_model: Make, tmp_path: Path) -> None:
    """open_clip would interpolate the positions of another picture size and go on."""
    folder = foreign_model("open_clip:quickgelu")
    model = open_clip.create_model(f"local-dir:{folder}")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["visual.positional_embedding"] = torch.zeros(26, 64)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError) as caught:
        from_open_clip._same_grid(model, tmp_path / "other.safetensors")
    assert caught.value.what.startswith("expected `visual.positional_embedding` of (17, 64); found (26, 64)")


def test_a_tokenizer_with_more_ids_than_rows(foreign_model: Make, tmp_path: Path) -> None:
    folder = copied(foreign_model("hf:siglip"), tmp_path / "siglip")
    table = json.loads((folder / "tokenizer.json").read_text())
    table["model"]["vocab"] += [[f"extra{i}", -30.0] for i in range(300)]
    (folder / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match=r"the tokenizer has \d+ ids and the text tower has rows for 300"):
        load_pretrained(f"hf:{folder}")


@pytest.mark.parametrize(
    ("change", "kind", "what"),
    [
        ({"crop_size": {"height": 28, "width": 28}}, ConfigError, "pictures are scaled to 32 and cut to 28"),
        ({"do_rescale": False}, ConfigError, "expected `do_rescale` to be true; found False"),
        (
            {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}},
            CheckpointError,
            "the tower takes pictures of 32; its preprocessing makes 64",
        ),
    ],
)
def test_preprocessing_that_we_do_not_do(
    change: dict[str, object], kind: type[Exception], what: str, foreign_model: Make, tmp_path: Path
) -> None:
    folder = copied(foreign_model("hf:clip"), tmp_path / "clip")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(kind, match=what):
        load_pretrained(f"hf:{folder}")


def test_another_end_of_sentence(foreign_model: Make, tmp_path: Path) -> None:
    folder = copied(foreign_model("hf:clip"), tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(f"hf:{folder}")
    assert caught.value.what == "the text tower pools at id 7; the tokenizer ends sentences with 3"


def test_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Names on the hub that no cache holds: exit 3 and what to do, at once."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnavailableError) as caught:
        load_pretrained("hf:somebody/some-clip")
    assert caught.value.exit_code == 3
    assert caught.value.what.startswith(
        "`somebody/some-clip` is not in the hub's cache here and cannot be downloaded: "
    )
    assert "huggingface-cli download somebody/some-clip --local-dir DIR; then name hf:DIR" in str(caught.value.hint)


def test_random_weights_only_when_asked(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError, match="`open_clip:RN50` names no weights") as caught:
        load_pretrained("open_clip:RN50")
    assert "`:random` measures speed and size only" in str(caught.value.hint)
    with caplog.at_level(logging.WARNING):
        first, again = (load_pretrained("open_clip:ViT-S-32-alt:random") for _ in range(2))
    assert caplog.records == []
    assert first.random
    assert first.licences == ()
    assert all(torch.equal(a, b) for a, b in zip(first.image.parameters(), again.image.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "tag", "licence"),
    [("MobileCLIP-S1", "datacompdr", "apple-amlr"), ("ViT-B-16", "metaclip_400m", "cc-by-nc-4.0")],
)
def test_restricted_weights_are_named(name: str, tag: str, licence: str) -> None:
    (found,) = from_open_clip._licences(name, tag)
    assert (found.name, found.research_only) == (licence, True)
    assert from_open_clip._licences("ViT-B-16", "laion2b_s34b_b88k") == ()
