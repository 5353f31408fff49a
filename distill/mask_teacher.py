"""Teachers that outline: a student of ours with a mask head, or a SAM. Frozen, and asked in fp32."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip_edge.distill.models.sight import Masks
from clip_edge.distill.models.spec import Licence
from clip_edge.distill.teacher import weights_sha256
from clip_edge.errors import CheckpointError, ConfigError, UnavailableError, UsageError
from clip_edge.graphs import TOP_LEFT
from clip_edge.preprocess import Bytes, PreprocessSpec, normalize

HF, SAM = "hf:", "sam:"
Answer = tuple[Tensor, Tensor]  # logits (N, 3, M, M) and the IoU that the teacher expects of each (N, 3)


@dataclass(frozen=True)
class MaskTeacher:
    """`outline` takes normalised pixels (B, 3, T, T), points (B, K, 2, 2) in 0..1 and labels (B, K, 2)."""

    source: str
    model: nn.Module
    outline: Callable[[Tensor, Tensor, Tensor], Answer]
    preprocess: PreprocessSpec
    weights_sha256: str
    licences: tuple[Licence, ...]

    def ask(self, views: Bytes, points: Tensor, labels: Tensor) -> Answer:
        """(B, T, T, 3) uint8 at the teacher's size, (B, K, 2, 2), (B, K, 2) -> (B K, 3, M, M), (B K, 3)."""
        device = next(self.model.parameters()).device
        pixels = torch.from_numpy(normalize(views, self.preprocess)).to(device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            logits, quality = self.outline(pixels, points.to(device), labels.to(device))
            return logits.float(), quality.float()


def load_mask_teacher(spec: str, *, device: torch.device) -> MaskTeacher:
    """The teacher that `spec` names: a student folder or run with a mask head, `hf:FOLDER` of a SAM, or `sam:FILE`.

    `sam:` files are checkpoints as the authors of segment-anything published them.

    Raises:
        UsageError, CheckpointError, ConfigError: not there, damaged, or without masks.
        UnavailableError: transformers is not installed.
    """
    if spec.startswith(SAM):
        teacher = _from_segment_anything(spec)
    else:
        teacher = _from_hugging_face(spec) if spec.startswith(HF) else _from_student(spec)
    teacher.model.to(device, torch.float32).eval().requires_grad_(False)
    return teacher


def outline(masks: Masks, feature_map: Tensor, points: Tensor, labels: Tensor) -> Answer:
    """K prompts for each of B maps: (B, C, h, w), (B, K, 2, 2), (B, K, 2) -> (B K, 3, M, M), (B K, 3)."""
    prompts = points.shape[1]
    repeated = feature_map.repeat_interleave(prompts, dim=0)  # (B, C, h, w) -> (B K, C, h, w)
    answer: Answer = masks(repeated, points.flatten(0, 1), labels.flatten(0, 1))
    return answer


def _from_student(spec: str) -> MaskTeacher:
    from clip_edge.distill.models.checkpoint import load_student

    loaded = load_student(Path(spec))
    student = loaded.student
    if student.masks is None:
        raise ConfigError(
            f"`{loaded.spec.name}` has no mask head", where=spec, hint="make one with the recipe `segment`"
        )
    masks = student.masks
    return MaskTeacher(
        source=spec,
        model=student,
        outline=lambda pixels, points, labels: outline(masks, student.image.trunk(pixels), points, labels),
        preprocess=loaded.preprocess,
        weights_sha256=weights_sha256(student),
        licences=tuple(student.licences),
    )


def _from_hugging_face(spec: str) -> MaskTeacher:
    folder = Path(spec.removeprefix(HF))
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}", hint="download the model first, and name its folder")
    with _transformers():
        from transformers import SamModel
    try:
        with warnings.catch_warnings(action="ignore"):
            model: Any = SamModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, KeyError) as problem:
        raise CheckpointError(f"not a SAM of transformers, or a damaged one: {problem}", where=folder) from problem
    return _of_sam(spec, model, folder.name)


def _from_segment_anything(spec: str) -> MaskTeacher:
    from clip_edge.distill.models.from_segment_anything import load_segment_anything

    path = Path(spec.removeprefix(SAM))
    with _transformers():
        return _of_sam(spec, load_segment_anything(path), path.name)


@contextmanager
def _transformers() -> Iterator[None]:
    try:
        yield
    except ImportError as problem:
        raise UnavailableError(
            "the package transformers is not installed", hint="pip install 'clip-edge[distill]'"
        ) from problem


def _of_sam(spec: str, model: Any, name: str) -> MaskTeacher:
    size = int(model.config.vision_config.image_size)
    # SAM fits the longer side and pads; on the square that a student sees this is the same. Its means are ImageNet's.
    preprocess = PreprocessSpec(size, "shortest", "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def ask(pixels: Tensor, points: Tensor, labels: Tensor) -> Answer:
        seen = model.get_image_embeddings(pixels)
        at = points * size  # (B, K, 2, 2)
        asked = {"image_embeddings": seen, "multimask_output": True}
        boxes = model(**asked, input_boxes=at.flatten(2))  # x0, y0, x1, y1
        dots = model(**asked, input_points=at[:, :, :1], input_labels=labels[:, :, :1].clamp(0, 1))
        is_box = (labels[:, :, 0] == TOP_LEFT).flatten()  # (B K,)
        boxed, dotted = ((answer.pred_masks.flatten(0, 1), answer.iou_scores.flatten(0, 1)) for answer in (boxes, dots))
        masks = torch.where(is_box[:, None, None, None], boxed[0], dotted[0])  # (B K, 3, T, T)
        return masks, torch.where(is_box[:, None], boxed[1], dotted[1])

    licence = Licence("mask teacher", f"unknown: weights from {name}", False)
    return MaskTeacher(spec, model, ask, preprocess, weights_sha256(model), (licence,))
