"""Other people's tools open a bundle as it is: transformers with onnxruntime, and transformers.js."""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from clip_edge.bundle import GOLDEN, Bundle
from clip_edge.golden import Golden, read_golden
from clip_edge.preprocess import normalize

TRANSFORMERS_JS = "@huggingface/transformers@3.7.6"
INSTALL_S, RUN_S = 300, 120


def golden_of(bundle: Path) -> Golden:
    return read_golden((bundle / GOLDEN).read_bytes(), Bundle.open(bundle).manifest, bundle)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def run(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {name: values})[0]
    return found


def test_transformers_and_onnxruntime(tiny_bundle: Path) -> None:
    """CLIPImageProcessor and AutoTokenizer from the bundle's folder, with its graphs, give PyTorch's embeddings."""
    transformers = pytest.importorskip("transformers")
    golden = golden_of(tiny_bundle)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bundle)
    tokens = tokenizer(list(golden.texts), padding="max_length", truncation=True, max_length=tokenizer.model_max_length)
    assert tokens["input_ids"] == golden.input_ids.tolist()
    ids = np.array(tokens["input_ids"], dtype=np.int64)
    assert cosines(run(tiny_bundle / "onnx/text_model.onnx", "input_ids", ids), golden.text_embeds).min() > 0.9999
    processor = transformers.CLIPImageProcessor.from_pretrained(tiny_bundle)
    same = [i for i, image in enumerate(golden.images) if not crop_differs(image.shape[0], image.shape[1], 32)]
    assert len(same) >= 10
    pictures = [Image.fromarray(golden.images[i]) for i in same]
    pixels = processor(pictures, return_tensors="np")["pixel_values"]
    found = run(tiny_bundle / "onnx/vision_model.onnx", "pixel_values", pixels)
    assert cosines(found, golden.image_embeds[same]).min() > 0.9999


def test_optimum(tiny_bundle: Path) -> None:
    """optimum's loader of ONNX files finds configuration and graphs, and gives PyTorch's embeddings."""
    reason = "optimum-onnx is no development package; the test above opens the same files with plain onnxruntime"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        optimum = pytest.importorskip("optimum.onnxruntime", reason=reason)
    golden, manifest = golden_of(tiny_bundle), Bundle.open(tiny_bundle).manifest
    pixels = normalize(golden.pixels, manifest.image.preprocess)
    for name, given, embeds, expected in (
        ("vision_model", {"pixel_values": pixels}, "image_embeds", golden.image_embeds),
        ("text_model", {"input_ids": golden.input_ids.astype(np.int64)}, "text_embeds", golden.text_embeds),
    ):
        model = optimum.ORTModelForCustomTasks.from_pretrained(tiny_bundle, subfolder="onnx", file_name=f"{name}.onnx")
        assert model.config.model_type == "clip"
        assert model.config.projection_dim == manifest.embedding.dim
        assert cosines(model(**given)[embeds], expected).min() > 0.9999


def crop_differs(height: int, width: int, size: int) -> bool:
    """Whether transformers cuts one pixel elsewhere: it rounds the offset down, torchvision half to even."""
    short = min(height, width)
    spare = [int(size * side / short) - size for side in (height, width)]
    return any(round(one / 2) != one // 2 for one in spare)


@pytest.mark.slow
def test_transformers_js(tiny_bundle: Path, tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("npm and node are not installed")
    words = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", TRANSFORMERS_JS]
    try:
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not install {TRANSFORMERS_JS} within {INSTALL_S} s")
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {TRANSFORMERS_JS} here: {done.stderr.strip()[-200:]}")
    shutil.copy(Path(__file__).with_name("transformers_js.mjs"), tmp_path)
    golden, manifest = golden_of(tiny_bundle), Bundle.open(tiny_bundle).manifest
    pixels = normalize(golden.pixels, manifest.image.preprocess)
    own = tmp_path / "own.png"
    Image.fromarray(golden.images[0]).save(own)
    request = {
        "folder": f"{tiny_bundle.parent}/",
        "name": tiny_bundle.name,
        "texts": list(golden.texts),
        "length": manifest.text.tokenizer.context_length,
        "pixels": pixels.tolist(),
        "shape": list(pixels.shape),
        "images": [str(own)],
        "out": str(tmp_path / "found.json"),
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    done = subprocess.run(
        [node, "transformers_js.mjs", "request.json"], cwd=tmp_path, capture_output=True, text=True, timeout=RUN_S
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    fits = golden.input_ids[:, -1] != manifest.text.tokenizer.eos_id  # it cuts a longer sentence together with its EOS
    assert fits.sum() >= 10
    assert np.array(found["ids"])[fits].tolist() == golden.input_ids[fits].tolist()
    assert np.array(found["ids"])[:, :-1].tolist() == golden.input_ids[:, :-1].tolist()
    assert cosines(np.array(found["text_embeds"])[fits], golden.text_embeds[fits]).min() > 0.9999
    assert cosines(np.array(found["image_embeds"]), golden.image_embeds).min() > 0.9999
    own_cosine = cosines(np.array(found["own_image_embeds"]), golden.image_embeds[:1]).min()
    assert own_cosine > 0.9, "its own resizing differs from Pillow's, but not as much as this"
