"""The contract of every kind of source: from the source to a bundle, and from picture and sentence to the embedding."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clip_edge.bundle import Bundle
from clip_edge.errors import UsageError
from clip_edge.export.exporter import Request, export
from clip_edge.export.sources import FOLDER, SOURCES, Exportable, load_source
from clip_edge.inspection import inspect
from clip_edge.runtime import load

SENTENCES = ["a photo of a Cat", "Two_dogs, and 3 cars!", "一只红色的猫", "", "word " * 60]
Make = Callable[[str], Path]
FAMILIES = {  # of open_clip -> causal, activation, resize mode
    "quickgelu": (True, "quick_gelu", "shortest"),  # OpenAI
    "mobileclip-s": (False, "gelu", "shortest"),
    "mobileclip2-s3": (False, "gelu", "shortest"),
    "tinyclip": (True, "quick_gelu", "shortest"),
    "siglip": (False, "gelu", "squash"),
    "xlmr": (False, "gelu", "shortest"),
    "mt5": (False, "gated-gelu", "shortest"),
}


def test_every_family_has_a_source() -> None:
    assert set(SOURCES) == {"student", "open_clip", "hf"}


@pytest.mark.parametrize(
    "kind", ["folder", "student:nano-s:random", "open_clip:mobileclip", "open_clip:siglip", "hf:siglip", "hf:altclip"]
)
def test_a_source_keeps_the_contract(kind: str, foreign_model: Make, tiny_student: Path) -> None:
    given = str(tiny_student) if kind == "folder" else kind
    if kind.startswith(("open_clip", "hf")):
        given = f"{kind.partition(':')[0]}:{foreign_model(kind)}"
    source: Exportable = load_source(given)
    assert FOLDER.endswith("student")
    spec = source.tokenizer.spec
    assert source.text_input.tokenizer == spec
    pixels = torch.randn(2, 3, source.preprocess.size, source.preprocess.size)
    ids = torch.from_numpy(source.tokenizer(["a cat", "two dogs"]))
    for module, rows in ((source.image, pixels), (source.text, ids)):
        assert not module.training
        with torch.inference_mode():
            found = module(rows)
        assert found.shape == (2, source.dim)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
        assert {value.dtype for value in module.parameters()} == {torch.float32}
    assert source.logit_scale > 0
    assert len(source.weights_sha256()) == 64


def unit(rows: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(rows, dim=-1).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_bundle_gives_what_open_clip_gives(kind: str, foreign_model: Make, tmp_path: Path) -> None:
    """PIL picture -> embedding and string -> embedding, against open_clip's own transforms, tokenizer and towers."""
    folder = foreign_model(f"open_clip:{kind}")
    export(f"open_clip:{folder}", [Request("onnx")], tmp_path / "bundle")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    picture = Image.effect_mandelbrot((90, 61), (-2, -1, 1, 1), 60).convert("RGB")
    with torch.inference_mode():
        image = unit(model.encode_image(transform(picture)[None]))
        texts = unit(model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(SENTENCES)))
    with load(tmp_path / "bundle", threads=1) as bundle:
        assert (bundle.encode_images([picture]) * image).sum(1).min() > 0.99999
        assert (bundle.encode_texts(SENTENCES) * texts).sum(1).min() > 0.99999
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert manifest.source.provenance == {"source": f"open_clip:{folder}", "weights": "trained elsewhere"}
    assert (manifest.text.tokenizer.bos_id is None) == (kind in ("siglip", "mt5"))
    assert (manifest.text.causal, manifest.text.activation, manifest.image.preprocess.resize) == FAMILIES[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["siglip", "chinese_clip", "altclip"])
def test_a_bundle_gives_what_transformers_gives(kind: str, foreign_model: Make, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = foreign_model(f"hf:{kind}")
    export(f"hf:{folder}", [Request("onnx")], tmp_path / "bundle")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        SENTENCES, padding="max_length", truncation=True, max_length=24, return_tensors="pt"
    )
    picture = Image.effect_mandelbrot((90, 61), (-2, -1, 1, 1), 60).convert("RGB")
    inputs = {"input_ids": tokens["input_ids"], **processor([picture], return_tensors="pt")}
    if kind != "siglip":
        inputs["attention_mask"] = tokens["attention_mask"]
    with torch.inference_mode():
        out = model(**inputs)
    with load(tmp_path / "bundle", threads=1) as bundle:
        assert (bundle.encode_images([picture]) * unit(out.image_embeds)).sum(1).min() > 0.99999
        assert (bundle.encode_texts(SENTENCES) * unit(out.text_embeds)).sum(1).min() > 0.99999


def test_a_model_whose_text_tower_changes_its_pooling_is_refused(tmp_path: Path, foreign_model: Make) -> None:
    """transformers pools old configurations at the largest id of a sentence, which need not be its end."""
    folder = shutil.copytree(foreign_model("hf:clip"), tmp_path / "clip")
    load_source(f"hf:{folder}")
    table = json.loads((folder / "config.json").read_text())
    table["text_config"]["eos_token_id"] = 2
    (folder / "config.json").write_text(json.dumps(table))
    with pytest.raises(UsageError, match="cannot be exported: its text tower serves a decoder, or pools at an id"):
        load_source(f"hf:{folder}")


@pytest.mark.slow
def test_random_weights_are_flagged(tmp_path: Path) -> None:
    export("open_clip:ViT-S-32-alt:random", [Request("onnx")], tmp_path / "bundle")
    assert Bundle.open(tmp_path / "bundle").manifest.source.provenance["weights"] == "random"
    assert inspect(tmp_path / "bundle").facts["weights"].startswith("RANDOM")
