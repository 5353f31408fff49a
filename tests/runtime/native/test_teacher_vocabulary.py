"""Students that carry the vocabulary of another model: trained, trimmed, exported, and read by C like the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_edge import runtime
from clip_edge.cli import main
from clip_edge.distill.models.checkpoint import load_student
from clip_edge.distill.vocabulary.corpus import builtin_sentences

from .test_tokenizer_families import bert, t5, unigram_with_bytes
from .test_tokenizer_parity import corpus

STUDENT: dict[str, Any] = {
    "name": "tiny",
    "embed_dim": 16,
    "image": {"tower": "timm:resnet10t", "args": {"channels": [8, 8, 8, 16], "stem_width": 8}, "size": 32},
    "text": {"depth": 1, "width": 16, "heads": 2, "context_length": 24, "causal": False, "pad_mask": True},
}
FILES: dict[str, tuple[Callable[[Path], str], dict[str, Any]]] = {
    "wordpiece": (bert, {"start": "[CLS]", "end": "[SEP]", "pad": "[PAD]", "lowercase": True}),
    "unigram": (unigram_with_bytes, {"pad": "</s>", "lowercase": False, "clean": "whitespace"}),
    "siglip": (t5, {"start": "", "clean": "canonicalize"}),
}


@pytest.fixture(autouse=True)
def use_library(library_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIP_EDGE_LIBRARY", str(library_path))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers warns of every slow tokenizer
@pytest.mark.parametrize("family", FILES)
def test_the_student_and_its_smaller_form_run(
    tiny_emoji: Path, tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, said = FILES[family]
    (tmp_path / "teacher.json").write_text(make(tmp_path))
    spec = STUDENT | {
        "tokenizer": {"kind": "trained", "vocab_size": 5000, "file": str(tmp_path / "teacher.json"), **said}
    }
    (tmp_path / "tiny.json").write_text(json.dumps(spec))
    words = ["distill", "clip", "--data", str(tiny_emoji), "--student", str(tmp_path / "tiny.json"), "--no-progress"]
    settings = ("steps=1", "batch_size=8", "workers=0", "evaluation.split=''", "log.tensorboard=false")
    words += [word for one in settings for word in ("--set", one)]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    words = ["vocab", "trim", str(tmp_path / "whole"), "--langs", "en,zh", "--no-progress", "--json", "-"]
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "small")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tokens_after"] < report["tokens_before"] * 0.6
    whole, small = (_exported(tmp_path, name) for name in ("whole", "small"))
    texts = [text for lang in ("en", "zh") for text in builtin_sentences(lang)[::40]]
    np.testing.assert_array_equal(whole.encode_texts(texts), small.encode_texts(texts))


def _exported(folder: Path, name: str) -> runtime.Model:
    """The model in a bundle, once both runtimes agree on it and on sentences of all kinds."""
    bundle = folder / f"{name}-bundle"
    assert main(["export", str(folder / name), "--target", "onnx", "--out", str(bundle), "--no-progress"]) == 0
    for backend in ("onnxruntime", "native"):
        assert main(["verify", str(bundle), "--backend", backend, "--threads", "1", "--no-progress"]) == 0
    text = load_student(folder / name).tokenizer.spec
    assert json.loads((bundle / "tokenizer_config.json").read_text())["model_max_length"] == text.context_length
    python, native = (runtime.load(bundle, backend, threads=1) for backend in ("onnxruntime", "native"))
    texts = corpus(400)
    np.testing.assert_allclose(python.encode_texts(texts), native.encode_texts(texts), atol=1e-6)
    return python
