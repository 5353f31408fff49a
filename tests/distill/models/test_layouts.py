"""Names of other libraries' weights: the same weights give the same outputs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clip_edge.distill.models import layouts
from clip_edge.distill.models.spec import load_spec
from clip_edge.distill.models.student import Student, build_student
from clip_edge.distill.models.tokenizers import clip_tokenizer
from clip_edge.distill.models.weights import assign, load_weights
from clip_edge.errors import CheckpointError

SENTENCES = ["a photo of a cat", "两只红苹果 on a table", ""]
OPEN_CLIP = {
    "mobileclip-s1": "MobileCLIP-S1",
    "mobileclip-s2": "MobileCLIP-S2",
    "mobileclip-b": "MobileCLIP-B",
    "mobileclip2-s0": "MobileCLIP2-S0",
    "mobileclip2-s2": "MobileCLIP2-S2",
    "mobileclip2-b": "MobileCLIP2-B",
    "mobileclip2-s3": "MobileCLIP2-S3",
    "mobileclip2-s4": "MobileCLIP2-S4",
    "mobileclip2-l-14": "MobileCLIP2-L-14",
}


def shake(state: dict[str, Tensor]) -> None:
    """Move everything that starts at 0, 1 or almost nothing, so that a swapped or lost tensor shows."""
    generator = torch.Generator().manual_seed(1)
    for name, value in state.items():
        if "running_var" in name:
            value.uniform_(0.5, 1.5, generator=generator)
        elif "layer_scale" in name or name.endswith("gamma"):
            value.uniform_(0.2, 0.5, generator=generator)
        elif value.is_floating_point() and value.dim() <= 1 and "logit_scale" not in name:
            value.add_(torch.randn(value.shape, generator=generator) * 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPEN_CLIP)
@torch.no_grad()
def test_open_clip_weights_give_the_same_embeddings(name: str) -> None:
    import open_clip

    theirs = open_clip.create_model(OPEN_CLIP[name]).eval()
    shake(theirs.state_dict())
    spec = load_spec(name)
    tokenizer = clip_tokenizer()
    ours = build_student(spec, tokenizer).eval()
    assign(ours, layouts.open_clip(theirs.state_dict()), "memory")
    pixels = torch.rand(1, 3, spec.image.size, spec.image.size, generator=torch.Generator().manual_seed(2))
    ids = torch.from_numpy(tokenizer(SENTENCES))
    torch.testing.assert_close(
        ours.encode_image(pixels), theirs.encode_image(pixels, normalize=True), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(ours.encode_text(ids), theirs.encode_text(ids, normalize=True), atol=1e-6, rtol=0)
    assert torch.equal(ours.logit_scale, theirs.logit_scale)


@torch.no_grad()
def test_open_clip_file(tmp_path: Path) -> None:
    """From a file, as open_clip's trainer writes it; small text tower, so that it is quick."""
    spec = load_spec("mobileclip2-s0")
    spec = dataclasses.replace(spec, text=dataclasses.replace(spec.text, width=32, depth=1, heads=4))
    trained, ours = (build_student(spec, clip_tokenizer()).eval() for _ in range(2))
    shake(trained.state_dict())
    state = {f"module.{theirs}": trained.state_dict()[name] for theirs, name in _open_clip_names(trained).items()}
    state["module.text.text_projection"] = state["module.text.text_projection"].T
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "epoch_3.pt")
    licence = load_weights(ours, f"open_clip:{tmp_path / 'epoch_3.pt'}")
    assert licence.research_only
    assert ours.licences == [licence]
    for name, value in trained.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def _open_clip_names(student: Student) -> dict[str, str]:
    """open_clip's name of every weight of `student`, with ours."""
    names = {}
    for name in student.state_dict():
        theirs = name.replace("image.trunk.", "visual.trunk.").replace("image.projection.", "visual.trunk.head.fc.")
        if theirs.startswith("text.blocks."):
            for ours, other in (
                ("blocks", "transformer.resblocks"),
                ("norm1", "ln_1"),
                ("norm2", "ln_2"),
                ("qkv.", "attn.in_proj_"),
                ("out.", "attn.out_proj."),
                ("fc1", "mlp.c_fc"),
                ("fc2", "mlp.c_proj"),
            ):
                theirs = theirs.replace(ours, other)
        theirs = theirs.replace("text.norm.", "text.ln_final.").replace(
            "text.projection.weight", "text.text_projection"
        )
        names[theirs.replace("text.position_embedding", "text.positional_embedding")] = name
    return names


def apple_text_state(width: int, depth: int, embed_dim: int) -> dict[str, Tensor]:
    """Random weights under the names that Apple's MobileCLIP-S0 file has for its text tower."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    def norm(prefix: str, *, running: bool = False) -> dict[str, Tensor]:
        made = {f"{prefix}.weight": 1 + draw(width), f"{prefix}.bias": draw(width)}
        if running:
            made[f"{prefix}.running_mean"] = draw(width)
            made[f"{prefix}.running_var"] = 1 + draw(width).abs()
            made[f"{prefix}.num_batches_tracked"] = torch.tensor(1)
        return made

    state = {
        "text_encoder.embedding_layer.weight": draw(49408, width),
        "text_encoder.positional_embedding.pos_embed.pos_embed": draw(1, 1, 77, width),
        "text_encoder.projection_layer": draw(width, embed_dim),
        **norm("text_encoder.final_layer_norm"),
    }
    for index in (0, depth + 1):
        at = f"text_encoder.transformer.{index}"
        state |= {
            f"{at}.layer_scale": draw(width, 1, 1),
            f"{at}.token_mixer.layer_scale": draw(width, 1, 1),
            **norm(f"{at}.token_mixer.norm.rbr_skip", running=True),
            **norm(f"{at}.token_mixer.mixer.rbr_skip", running=True),
            f"{at}.token_mixer.mixer.rbr_conv.0.conv.weight": draw(width, 1, 1, 11),
            **norm(f"{at}.token_mixer.mixer.rbr_conv.0.bn", running=True),
            f"{at}.convffn.conv.conv.weight": draw(width, 1, 1, 11),
            **norm(f"{at}.convffn.conv.bn", running=True),
            f"{at}.convffn.fc1.weight": draw(4 * width, width, 1, 1),
            f"{at}.convffn.fc1.bias": draw(4 * width),
            f"{at}.convffn.fc2.weight": draw(width, 4 * width, 1, 1),
            f"{at}.convffn.fc2.bias": draw(width),
        }
    for index in range(1, depth + 1):
        at = f"text_encoder.transformer.{index}"
        state |= {
            **norm(f"{at}.pre_norm_mha.0"),
            f"{at}.pre_norm_mha.1.qkv_proj.weight": draw(3 * width, width),
            f"{at}.pre_norm_mha.1.qkv_proj.bias": draw(3 * width),
            f"{at}.pre_norm_mha.1.out_proj.weight": draw(width, width),
            f"{at}.pre_norm_mha.1.out_proj.bias": draw(width),
            **norm(f"{at}.pre_norm_ffn.0"),
            f"{at}.pre_norm_ffn.1.weight": draw(4 * width, width),
            f"{at}.pre_norm_ffn.1.bias": draw(4 * width),
            f"{at}.pre_norm_ffn.4.weight": draw(width, 4 * width),
            f"{at}.pre_norm_ffn.4.bias": draw(width),
        }
    return state


def apple_text(state: dict[str, Tensor], ids: Tensor, heads: int, depth: int) -> Tensor:
    """What that tower computes, written from its description: plain functions over the weights by their names."""
    weights = {name.removeprefix("text_encoder."): value for name, value in state.items()}

    def batch_norm(x: Tensor, at: str) -> Tensor:
        mean, var, gain, bias = (weights[f"{at}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, gain, bias)

    def layer_norm(x: Tensor, at: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{at}.weight"], weights[f"{at}.bias"])

    def linear(x: Tensor, at: str) -> Tensor:
        return F.linear(x, weights[f"{at}.weight"], weights[f"{at}.bias"])

    def mixer(x: Tensor, at: str) -> Tensor:
        y = x.permute(0, 2, 1).unsqueeze(2)  # (B, L, W) -> (B, W, 1, L)
        groups = y.shape[1]
        convolved = F.conv2d(
            y, weights[f"{at}.token_mixer.mixer.rbr_conv.0.conv.weight"], padding=(0, 5), groups=groups
        )
        mixed = batch_norm(y, f"{at}.token_mixer.mixer.rbr_skip")
        mixed = mixed + batch_norm(convolved, f"{at}.token_mixer.mixer.rbr_conv.0.bn")
        y = y + weights[f"{at}.token_mixer.layer_scale"] * (mixed - batch_norm(y, f"{at}.token_mixer.norm.rbr_skip"))
        z = F.conv2d(y, weights[f"{at}.convffn.conv.conv.weight"], padding=(0, 5), groups=groups)
        z = batch_norm(z, f"{at}.convffn.conv.bn")
        z = F.gelu(F.conv2d(z, weights[f"{at}.convffn.fc1.weight"], weights[f"{at}.convffn.fc1.bias"]))
        z = F.conv2d(z, weights[f"{at}.convffn.fc2.weight"], weights[f"{at}.convffn.fc2.bias"])
        return (y + weights[f"{at}.layer_scale"] * z).squeeze(2).permute(0, 2, 1)

    def attend(x: Tensor, at: str) -> Tensor:
        q, k, v = linear(layer_norm(x, f"{at}.pre_norm_mha.0"), f"{at}.pre_norm_mha.1.qkv_proj").chunk(3, -1)
        outs = []
        for one_q, one_k, one_v in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
            scores = one_q @ one_k.transpose(1, 2) / one_q.shape[-1] ** 0.5
            outs.append(scores.softmax(-1) @ one_v)
        x = x + linear(torch.cat(outs, -1), f"{at}.pre_norm_mha.1.out_proj")
        hidden = F.gelu(linear(layer_norm(x, f"{at}.pre_norm_ffn.0"), f"{at}.pre_norm_ffn.1"))
        return x + linear(hidden, f"{at}.pre_norm_ffn.4")

    x = weights["embedding_layer.weight"][ids] + weights["positional_embedding.pos_embed.pos_embed"][0]
    x = mixer(x, "transformer.0")
    for index in range(1, depth + 1):
        x = attend(x, f"transformer.{index}")
    x = layer_norm(mixer(x, f"transformer.{depth + 1}"), "final_layer_norm")
    return x[torch.arange(len(ids)), ids.argmax(1)] @ weights["projection_layer"]


@torch.no_grad()
def test_apple_layout_of_s0_gives_the_same_embeddings(tmp_path: Path) -> None:
    spec = load_spec("mobileclip-s0")
    spec = dataclasses.replace(spec, embed_dim=24, text=dataclasses.replace(spec.text, width=32, depth=2, heads=4))
    ours = build_student(spec, clip_tokenizer()).eval()
    state = apple_text_state(width=32, depth=2, embed_dim=24) | apple_image_state(ours)
    torch.save(state, tmp_path / "mobileclip_s0.pt")
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    features = ours.image_features(pixels)
    licence = load_weights(ours, f"apple:{tmp_path / 'mobileclip_s0.pt'}")
    assert licence.research_only
    ids = torch.from_numpy(clip_tokenizer()(SENTENCES))
    torch.testing.assert_close(ours.text(ids), apple_text(state, ids, heads=4, depth=2), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.image_features(pixels), features, atol=0, rtol=0)
    torch.testing.assert_close(ours.image(pixels), features @ state["image_encoder.model.head.proj"])


def apple_image_state(student: Student) -> dict[str, Tensor]:
    """The student's own trunk under timm's names, which timm takes as they are, and a projection as Apple names it."""
    prefix = "image_encoder.model."
    trunk = {name: value.clone() for name, value in student.image.trunk.state_dict().items()}
    projection = torch.randn(
        student.image.feature_dim, student.spec.embed_dim, generator=torch.Generator().manual_seed(4)
    )
    return {prefix + _apple_name(name): value for name, value in trunk.items()} | {
        prefix + "head.proj": projection,
        "logit_scale": torch.tensor(4.0),
    }


def _apple_name(name: str) -> str:
    """timm's name of a MCi0 weight, as Apple writes it: stages, and the steps between them, counted through."""
    import re

    places = {"0.": "0.", "1.downsample": "1", "1.": "2.", "2.downsample": "3", "2.": "4."}
    places |= {"3.downsample": "5", "3.pos_emb": "6", "3.": "7."}
    if match := re.match(r"stages\.(\d\.(?:downsample|pos_emb)?)(?:blocks\.|\.pos_enc)?", name):
        kind = ".pe" if "pos_emb" in match[1] else ""
        name = f"network.{places[match[1]]}{kind}" + name[match.end() :]
    for ours, theirs in (
        ("stem.", "patch_embed."),
        ("conv_kxk", "rbr_conv"),
        ("conv_scale", "rbr_scale"),
        ("identity", "rbr_skip"),
        ("final_conv", "conv_exp"),
        ("large_conv", "lkb_origin"),
        ("mlp.", "convffn."),
        ("se.fc1", "se.reduce"),
        ("se.fc2", "se.expand"),
        (".gamma", ""),
    ):
        name = name.replace(ours, theirs)
    return name


def test_apple_vit_is_refused(tmp_path: Path) -> None:
    student = build_student(load_spec("mobileclip-b"), clip_tokenizer())
    torch.save({"image_encoder.model.x": torch.zeros(1)}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="pads its first convolution by one pixel") as caught:
        load_weights(student, f"apple:{tmp_path / 'b.pt'}")
    assert caught.value.hint == (
        "set `stem_padding` to 1 in the student's `image`, or load the same model in open_clip's layout: open_clip:FILE"
    )


@torch.no_grad()
def test_apple_layout_of_b_gives_the_same_features() -> None:
    spec = load_spec("mobileclip-b")
    image = dataclasses.replace(spec.image, stem_padding=1, args={"depth": 1, "num_heads": 4})
    text = dataclasses.replace(spec.text, width=32, depth=1, heads=4)
    ours = build_student(dataclasses.replace(spec, embed_dim=24, image=image, text=text), clip_tokenizer()).eval()
    state = apple_vit_state(width=768, embed_dim=24)
    tower = {name: value for name, value in layouts.apple(state, ours).items() if name.startswith("image.")}
    ours.image.load_state_dict({name.removeprefix("image."): value for name, value in tower.items()}, strict=True)
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours.image(pixels), apple_vit(state, pixels, heads=4), atol=1e-3, rtol=1e-3)


def apple_vit_state(width: int, embed_dim: int) -> dict[str, Tensor]:
    """Random weights under the names that Apple's MobileCLIP-B file has for its image tower, with one block."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.05

    def norm(at: str, channels: int) -> dict[str, Tensor]:
        return {f"{at}.weight": 1 + draw(channels), f"{at}.bias": draw(channels)}

    def layer(at: str, *shape: int) -> dict[str, Tensor]:
        return {f"{at}.weight": draw(*shape), f"{at}.bias": draw(shape[0])}

    small, block, state = width // 4, "transformer.0", {}
    for place, channels in (("patch_emb.0.block", 3), ("patch_emb.1.block", small)):
        kernel = 4 if channels == 3 else 2
        state |= {f"{place}.conv.weight": draw(small, channels, kernel, kernel)}
        state |= norm(f"{place}.norm", small)
        state |= {f"{place}.norm.running_mean": draw(small), f"{place}.norm.running_var": 1 + draw(small).abs()}
        state |= {f"{place}.norm.num_batches_tracked": torch.tensor(1)}
    state |= layer("patch_emb.2.block.conv", width, small, 2, 2)
    state |= {"cls_token": draw(1, 1, width), "pos_embed.pos_embed.pos_embed": draw(1, 1, 196, width)}
    state |= norm(f"{block}.pre_norm_mha.0", width) | norm(f"{block}.pre_norm_ffn.0", width)
    state |= layer(f"{block}.pre_norm_mha.1.qkv_proj", 3 * width, width)
    state |= layer(f"{block}.pre_norm_mha.1.out_proj", width, width)
    state |= layer(f"{block}.pre_norm_ffn.1", 4 * width, width) | layer(f"{block}.pre_norm_ffn.4", width, 4 * width)
    state |= norm("post_transformer_norm", width) | {"classifier.proj": draw(width, embed_dim)}
    return {f"image_encoder.model.{name}": value for name, value in state.items()}


def apple_vit(state: dict[str, Tensor], pixels: Tensor, heads: int) -> Tensor:
    """What that tower computes, written from its description: only the first convolution pads."""
    weights = {name.removeprefix("image_encoder.model."): value for name, value in state.items()}

    def of(at: str, *kinds: str) -> list[Tensor]:
        return [weights[f"{at}.{kind}"] for kind in kinds]

    def layer_norm(x: Tensor, at: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *of(at, "weight", "bias"))

    def linear(x: Tensor, at: str) -> Tensor:
        return F.linear(x, *of(at, "weight", "bias"))

    x = pixels
    for index, (stride, padding) in enumerate(((4, 1), (2, 0))):
        at = f"patch_emb.{index}.block"
        x = F.conv2d(x, weights[f"{at}.conv.weight"], stride=stride, padding=padding)
        x = F.gelu(F.batch_norm(x, *of(f"{at}.norm", "running_mean", "running_var", "weight", "bias")))
    x = F.conv2d(x, *of("patch_emb.2.block.conv", "weight", "bias"), stride=2).flatten(2).transpose(1, 2)
    x = torch.cat([weights["cls_token"], x + weights["pos_embed.pos_embed.pos_embed"][0]], dim=1)
    q, k, v = linear(layer_norm(x, "transformer.0.pre_norm_mha.0"), "transformer.0.pre_norm_mha.1.qkv_proj").chunk(
        3, -1
    )
    split = [one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in (q, k, v)]  # (B, L, W) -> (B, H, L, W/H)
    scores = split[0] @ split[1].transpose(-1, -2) / split[0].shape[-1] ** 0.5
    mixed = (scores.softmax(-1) @ split[2]).transpose(1, 2).flatten(2)
    x = x + linear(mixed, "transformer.0.pre_norm_mha.1.out_proj")
    hidden = F.gelu(linear(layer_norm(x, "transformer.0.pre_norm_ffn.0"), "transformer.0.pre_norm_ffn.1"))
    x = layer_norm(x + linear(hidden, "transformer.0.pre_norm_ffn.4"), "post_transformer_norm")
    return x[:, 0] @ weights["classifier.proj"]
