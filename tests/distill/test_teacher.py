"""Teachers of different families behind one interface, frozen whatever happens around them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from clip_edge.distill.models.pretrained import FAMILIES
from clip_edge.distill.teacher import Teacher, load_teacher
from clip_edge.errors import CheckpointError, UnavailableError, UsageError

TEXTS = ["two red apples", "eine Katze, and " * 40, ""]


@pytest.fixture(scope="module")
def teacher(tiny_open_clip: Path) -> Teacher:
    return load_teacher(f"open_clip:{tiny_open_clip}", device="cpu")


def noise(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_open_clip_gives_the_numbers_of_open_clip(teacher: Teacher, tiny_open_clip: Path) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny_open_clip}")
    model.eval()
    pixels = noise(3, 32)
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(Image.fromarray(one)) for one in pixels]), normalize=True)
        tokens = open_clip.get_tokenizer(f"local-dir:{tiny_open_clip}")(TEXTS)
        texts = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(teacher.encode_images(pixels), images, atol=1e-6, rtol=0)
    torch.testing.assert_close(teacher.encode_texts(TEXTS), texts, atol=1e-6, rtol=0)
    assert teacher.info.dim == 48
    assert teacher.info.preprocess.size == 32
    assert teacher.info.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)
    assert teacher.info.logit_bias is None


def test_a_teacher_stays_frozen(teacher: Teacher) -> None:
    """No gradient reaches it, nothing puts it in training mode, and autocast around it changes nothing."""

    class Task(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student = nn.Linear(48, 48)
            self.teacher = teacher

    task = Task().train()
    inner = teacher._towers.model
    assert not any(parameter.requires_grad for parameter in inner.parameters())
    assert list(task.parameters()) == list(task.student.parameters())
    inner.train()  # somebody does it anyway
    pixels = noise(2, 32)
    plain = teacher.encode_images(pixels)
    assert not inner.training
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(teacher.encode_images(pixels), plain)
    loss = (task.student(plain) - teacher.encode_texts(["a", "b"])).square().mean()
    loss.backward()
    assert task.student.weight.grad is not None
    assert all(parameter.grad is None for parameter in inner.parameters())
    assert not plain.requires_grad
    assert not plain.is_inference(), "a loss may keep it for the backward pass"


def test_the_hash_is_of_the_values_and_not_of_the_file(tiny_open_clip: Path, tmp_path: Path) -> None:
    first = load_teacher(f"open_clip:{tiny_open_clip}", device="cpu").info
    (tmp_path / "open_clip_config.json").write_bytes((tiny_open_clip / "open_clip_config.json").read_bytes())
    weights = load_file(tiny_open_clip / "open_clip_model.safetensors")
    torch.save(weights, tmp_path / "open_clip_pytorch_model.bin")
    again = load_teacher(f"open_clip:{tmp_path}", device="cpu").info
    assert again.same_numbers(first)
    (tmp_path / "open_clip_pytorch_model.bin").unlink()
    weights["ln_final.bias"][3] += 1e-3
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    changed = load_teacher(f"open_clip:{tmp_path}", device="cpu").info
    assert not changed.same_numbers(first)
    assert changed.architecture_sha256 == first.architecture_sha256


def hugging_face(folder: Path, kind: str) -> Path:
    """A tiny CLIP or SigLIP folder as `save_pretrained` writes it."""
    transformers = pytest.importorskip("transformers")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 300, "max_position_embeddings": 24, "pad_token_id": 1, "eos_token_id": 2}
    config_class, model_class = {
        "clip": (transformers.CLIPConfig, transformers.CLIPModel),
        "siglip": (transformers.SiglipConfig, transformers.SiglipModel),
    }[kind]
    more = {"projection_dim": 40} if kind == "clip" else {}
    config = config_class(text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}, **more)
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)
    tokenizer = _byte_tokenizer()
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": 32} if kind == "clip" else {"height": 32, "width": 32}
    crop = {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}} if kind == "clip" else {}
    values = {"size": size, **crop, "resample": 3, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return folder


def _byte_tokenizer():
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", *letters])}
    raw = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    raw.post_processor = tokenizers.processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", pad_token="<pad>", eos_token="</s>")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_hugging_face_gives_the_numbers_of_transformers(kind: str, tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / kind, kind)
    teacher = load_teacher(f"hf:{folder}", device="cpu")
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding="max_length", truncation=True, max_length=24, return_tensors="pt"
    )
    mask = {"attention_mask": tokens["attention_mask"]} if kind == "clip" else {}
    pixels = noise(3, 32)
    values = (pixels / 255 - np.array([0.4, 0.5, 0.6])) / np.array([0.2, 0.3, 0.4])
    batch = torch.tensor(values, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        out = model(input_ids=tokens["input_ids"], pixel_values=batch, **mask)
    torch.testing.assert_close(teacher.encode_images(pixels), out.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(teacher.encode_texts(TEXTS), out.text_embeds, atol=1e-5, rtol=0)
    assert teacher.info.preprocess.resize == ("shortest_floor" if kind == "clip" else "squash")
    assert (teacher.info.logit_bias is not None) == (kind == "siglip")


def test_missing_transformers_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnavailableError) as problem:
        load_teacher(f"hf:{tmp_path}")
    assert problem.value.exit_code == 3
    assert str(problem.value) == (
        "Hugging Face models need the package transformers\n\nhint: pip install 'clip-edge[hf]'"
    )


@pytest.mark.parametrize(
    ("spec", "kind", "start"),
    [
        ("nowhere/teacher", UsageError, "no such teacher: `nowhere/teacher`\n\nhint: a teacher is a student folder, "),
        ("open_clip:ViT-B-23", UsageError, "unknown open_clip model: `ViT-B-23`\n\nhint: did you mean `ViT-B-32`?"),
        (
            "open_clip:RN50",
            UsageError,
            "`open_clip:RN50` names no weights\n\nhint: write open_clip:RN50:TAG or :FILE; known tags: openai, ",
        ),
        ("open_clip:RN50:openia", UsageError, "unknown tag or file for RN50: `openia`\n\nhint: did you mean `openai`?"),
        ("hf:nowhere", UsageError, "no Hugging Face model in `nowhere`\n\nhint: name a folder that holds config.json"),
    ],
)
def test_a_wrong_name_is_answered_with_the_next_step(spec: str, kind: type[Exception], start: str) -> None:
    with pytest.raises(kind) as problem:
        load_teacher(spec)
    assert str(problem.value).startswith(start)


def test_pickled_weights_with_code_are_refused(tmp_path: Path) -> None:
    class Boom:
        def __reduce__(self) -> tuple:
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"state_dict": Boom()}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match="open_clip cannot load these weights"):
        load_teacher(f"open_clip:RN50:{tmp_path / 'bad.pt'}")
    assert not (tmp_path / "executed").exists()


def test_another_kind_of_hugging_face_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UsageError, match="unknown Hugging Face model type: `llama`"):
        load_teacher(f"hf:{tmp_path}")
    assert set(FAMILIES) == {"open_clip", "hf"}


def test_a_student_folder_is_a_teacher(tiny_student: Path) -> None:
    from clip_edge.distill.models.checkpoint import load_student
    from clip_edge.preprocess import normalize

    loaded = load_student(tiny_student)
    teacher = load_teacher(str(tiny_student), device="cpu")
    size = loaded.preprocess.size
    pixels = noise(2, size)
    with torch.no_grad():
        images = loaded.student.encode_image(torch.from_numpy(normalize(pixels, loaded.preprocess)))
        texts = loaded.student.encode_text(torch.from_numpy(loaded.tokenizer(TEXTS)))
    torch.testing.assert_close(teacher.encode_images(pixels), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(teacher.encode_texts(TEXTS), texts, atol=1e-5, rtol=0)
    assert teacher.info.dim == loaded.spec.embed_dim
    assert teacher.info.preprocess == loaded.preprocess
    assert teacher.info.research_only == loaded.info["research_only"]
