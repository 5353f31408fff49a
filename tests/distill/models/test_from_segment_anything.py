"""Checkpoints of segment-anything: the same answers under the names of transformers, and nothing that runs code."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_edge.distill.mask_teacher import load_mask_teacher
from clip_edge.distill.models.from_segment_anything import load_segment_anything
from clip_edge.errors import CheckpointError

transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")
BACK = (  # transformers -> the original's layout, written down apart from the table that is tested
    (r"^vision_encoder\.layers\.(\d+)\.layer_norm", r"image_encoder.blocks.\1.norm"),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"patch_embed\.projection", "patch_embed.proj"),
    (r"^vision_encoder\.neck\.conv1", "image_encoder.neck.0"),
    (r"^vision_encoder\.neck\.layer_norm1", "image_encoder.neck.1"),
    (r"^vision_encoder\.neck\.conv2", "image_encoder.neck.2"),
    (r"^vision_encoder\.neck\.layer_norm2", "image_encoder.neck.3"),
    (r"^vision_encoder\.", "image_encoder."),
    (r"\.point_embed\.", ".point_embeddings."),
    (r"mask_embed\.conv1", "mask_downscaling.0"),
    (r"mask_embed\.layer_norm1", "mask_downscaling.1"),
    (r"mask_embed\.conv2", "mask_downscaling.3"),
    (r"mask_embed\.layer_norm2", "mask_downscaling.4"),
    (r"mask_embed\.conv3", "mask_downscaling.6"),
    (r"transformer\.layers\.(\d+)\.layer_norm", r"transformer.layers.\1.norm"),
    (r"layer_norm_final_attn", "norm_final_attn"),
    (r"upscale_conv1", "output_upscaling.0"),
    (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"),
    (r"^(mask_decoder\..*(?:mlps\.\d+|head))\.layers\.0\.", r"\1.layers.1."),
    (r"\.proj_in\.", ".layers.0."),
    (r"^(mask_decoder\..*)\.proj_out\.", r"\1.layers.2."),
)


@pytest.fixture(name="sam", scope="module")
def _sam() -> Any:
    """A SAM small enough for tests, with random weights, one windowed and one global layer."""
    vision = {"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 64, "patch_size": 16, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 48}
    prompt = {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 8}
    decoder = {"hidden_size": 32, "mlp_dim": 40, "num_hidden_layers": 2, "iou_head_hidden_dim": 24}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.SamConfig(
            vision_config=vision | {"num_pos_feats": 16}, prompt_encoder_config=prompt, mask_decoder_config=decoder
        )
        model = transformers.SamModel(config)
        for value in model.parameters():  # tables and biases begin at 0
            value.data.add_(0.05 * torch.randn_like(value))
    return model.eval()


def original(model: Any) -> dict[str, torch.Tensor]:
    """The model's tensors in the layout of the original files."""
    found = {}
    for name, value in model.state_dict().items():
        if name.endswith("positional_embedding"):
            found["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = value.clone()
            continue
        for pattern, replacement in BACK:
            name = re.sub(pattern, replacement, name)
        found[name] = value
    return found


def test_the_same_answers_as_before_renaming(sam: Any, tmp_path: Path) -> None:
    sam.prompt_encoder.shared_embedding.positional_embedding = sam.shared_image_embedding.positional_embedding
    state = original(sam)
    assert "image_encoder.blocks.1.norm2.weight" in state
    assert "mask_decoder.output_hypernetworks_mlps.3.layers.1.bias" in state
    torch.save(state, tmp_path / "sam_vit_t.pth")
    teacher = load_mask_teacher(f"sam:{tmp_path / 'sam_vit_t.pth'}", device=CPU)
    assert (teacher.preprocess.size, teacher.licences[0].name) == (64, "unknown: weights from sam_vit_t.pth")
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    points, labels = (
        torch.tensor([[[[0.2, 0.3], [0.8, 0.7]], [[0.5, 0.5], [0.0, 0.0]]]]),
        torch.tensor([[[2, 3], [1, -1]]]),
    )
    with torch.no_grad():
        logits, iou = teacher.outline(pixels, points, labels)
        boxes = sam(pixel_values=pixels, input_boxes=points[:, :1].flatten(2) * 64, multimask_output=True)
        dots = sam(
            pixel_values=pixels,
            input_points=points[:, 1:, :1] * 64,
            input_labels=labels[:, 1:, :1],
            multimask_output=True,
        )
    torch.testing.assert_close(logits[:1], boxes.pred_masks[0])
    torch.testing.assert_close(logits[1:], dots.pred_masks[0])
    torch.testing.assert_close(iou[:1], boxes.iou_scores[0])


def test_safetensors_are_read_too(sam: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in original(sam).items()}, tmp_path / "sam.safetensors")
    model = load_segment_anything(tmp_path / "sam.safetensors")
    assert model.config.vision_config.global_attn_indexes == [1]
    assert model.config.vision_config.window_size == 2


class Hostile:
    """What runs code when a pickle that holds it is opened without care."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_a_hostile_pickle_is_refused_and_does_nothing(sam: Any, tmp_path: Path, write: str) -> None:
    state: dict[str, Any] = {**original(sam), "image_encoder.extra": Hostile(tmp_path / "touched")}
    path = tmp_path / "sam.pth"
    if write == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(Hostile(tmp_path / "touched")))
    with pytest.raises(CheckpointError, match="with code inside that would run on opening; it was not read"):
        load_mask_teacher(f"sam:{path}", device=CPU)
    assert not (tmp_path / "touched").exists()


def test_other_checkpoints_are_refused(sam: Any, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of segment-anything"):
        load_mask_teacher(f"sam:{tmp_path / 'other.pth'}", device=CPU)
    state = original(sam)
    del state["mask_decoder.iou_token.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"missing: mask_decoder\.iou_token\.weight"):
        load_mask_teacher(f"sam:{tmp_path / 'part.pth'}", device=CPU)
    with pytest.raises(CheckpointError, match=r"missing file: nowhere\.pth"):
        load_mask_teacher(f"sam:{tmp_path / 'nowhere.pth'}", device=CPU)
