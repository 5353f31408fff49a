"""One small student and its bundle, made once: random weights, real graphs."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_student(tiny_emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained student of 32 pixels and 16 dimensions in a folder."""
    import torch

    from clip_edge.distill.data.readers import open_dataset
    from clip_edge.distill.models.checkpoint import save_student
    from clip_edge.distill.models.spec import ImageSpec, StudentSpec, TextTowerSpec, TokenizerSpec
    from clip_edge.distill.models.student import build_student
    from clip_edge.distill.models.tokenizers import train_tokenizer

    captions = [text for i in range(8) for text in open_dataset(tiny_emoji).sample(i).captions["en"]]
    tokenizer = train_tokenizer(captions, 300, 16)
    spec = StudentSpec(
        name="tiny",
        embed_dim=16,
        image=ImageSpec(tower="timm:test_vit", size=32, args={"img_size": 32}),
        text=TextTowerSpec(depth=1, width=32, heads=2, context_length=16, causal=False, pad_mask=True),
        tokenizer=TokenizerSpec("trained", tokenizer.spec.vocab_size),
    )
    folder = tmp_path_factory.mktemp("student")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_student(folder, build_student(spec, tokenizer), tokenizer, recipe_toml="", metrics=None, provenance={})
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX bundle of the small student."""
    from clip_edge.export.exporter import Request, export

    out = tmp_path_factory.mktemp("export") / "bundle"
    export(tiny_student, [Request("onnx", "fp32")], out)
    return out
