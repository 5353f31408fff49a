"""A checkpoint of the original `segment-anything` as transformers' SamModel: the same tensors under other names.

Names as in the files that the authors published (sam_vit_b, sam_vit_l, sam_vit_h); sizes are read from the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from clip_edge.distill.models.weights import assign, read_state
from clip_edge.errors import CheckpointError

DECODER_HEADS = 8  # of all published checkpoints; no tensor tells it
POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
# Original -> transformers, applied in turn.
NAMES = (
    (r"^image_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision_encoder.layers.\1.layer_norm\2."),
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.", "vision_encoder."),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^mask_decoder\.transformer\.layers\.(\d+)\.norm(\d)\.", r"mask_decoder.transformer.layers.\1.layer_norm\2."),
    (r"^mask_decoder\.transformer\.norm_final_attn\.", "mask_decoder.transformer.layer_norm_final_attn."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
)
PERCEPTRON = re.compile(
    r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.(\d+)\.(.+)$"
)


def load_segment_anything(path: Path) -> Any:
    """The SamModel whose tensors lie in `path`, which may be a pickle of tensors and nothing else.

    Raises:
        CheckpointError: missing, damaged, with code inside, or not such a checkpoint.
        ImportError: transformers is not installed.
    """
    import transformers

    library: Any = transformers
    state = read_state(path)
    try:
        model = library.SamModel(library.SamConfig(**_config(state)))
    except (KeyError, IndexError, ValueError, ZeroDivisionError, RuntimeError) as problem:
        raise CheckpointError(
            f"not a checkpoint of segment-anything: {problem}",
            where=path,
            hint="name sam_vit_b, sam_vit_l or sam_vit_h as its authors published it; for other folders take hf:FOLDER",
        ) from problem
    assign(model, _renamed(state), path)
    return model


def _config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The sizes of a model as SamConfig wants them, read from the shapes of its tensors."""
    blocks = [f"image_encoder.blocks.{i}" for i in range(_count(state, r"image_encoder\.blocks\.(\d+)\."))]
    side, width = state["image_encoder.pos_embed"].shape[1:4:2]
    patch = state["image_encoder.patch_embed.proj.weight"].shape[-1]
    spans = [len(state[f"{block}.attn.rel_pos_h"]) for block in blocks]  # 2 * window - 1, of global ones 2 * side - 1
    head = state[f"{blocks[0]}.attn.rel_pos_h"].shape[1]
    inner = state["prompt_encoder.not_a_point_embed.weight"].shape[1]
    depth = _count(state, r"mask_decoder\.transformer\.layers\.(\d+)\.")
    outer = state["mask_decoder.transformer.final_attn_token_to_image.q_proj.weight"].shape[0]
    return {
        "vision_config": {
            "hidden_size": width,
            "output_channels": state["image_encoder.neck.0.weight"].shape[0],
            "num_hidden_layers": len(blocks),
            "num_attention_heads": width // head,
            "image_size": side * patch,
            "patch_size": patch,
            "window_size": (min(spans) + 1) // 2,
            "global_attn_indexes": [i for i, span in enumerate(spans) if span == 2 * side - 1],
            "mlp_dim": state[f"{blocks[0]}.mlp.lin1.weight"].shape[0],
            "num_pos_feats": state[POSITIONS].shape[1],
        },
        "prompt_encoder_config": {
            "hidden_size": inner,
            "image_size": side * patch,
            "patch_size": patch,
            "mask_input_channels": state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        },
        "mask_decoder_config": {
            "hidden_size": inner,
            "mlp_dim": state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
            "num_hidden_layers": depth,
            "num_attention_heads": DECODER_HEADS,
            "attention_downsample_rate": inner // outer,
            "num_multimask_outputs": len(state["mask_decoder.mask_tokens.weight"]) - 1,
            "iou_head_depth": _count(state, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
            "iou_head_hidden_dim": state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        },
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbered parts there are."""
    return 1 + max(int(found[1]) for name in state if (found := re.match(pattern, name)))


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    last: dict[str, int] = {}  # of each perceptron, whose first and last layers have names of their own
    for name in state:
        if found := PERCEPTRON.match(name):
            last[found[1]] = max(last.get(found[1], 0), int(found[2]))
    renamed = {_name(name, last): value for name, value in state.items() if name != POSITIONS}
    positions = {"shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding"}
    return renamed | dict.fromkeys(positions, state[POSITIONS])


def _name(name: str, last: Mapping[str, int]) -> str:
    if found := PERCEPTRON.match(name):
        number = int(found[2])
        layer = "proj_in" if number == 0 else "proj_out" if number == last[found[1]] else f"layers.{number - 1}"
        return f"{found[1]}.{layer}.{found[3]}"
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name
