"""The recipes segment and sam-clip on real scenes: each stage trains what it should and nothing else, and resumes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clip_edge.config import load_config
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.mask_teacher import load_mask_teacher
from clip_edge.distill.metrics import read_metrics
from clip_edge.distill.models.checkpoint import load_student
from clip_edge.distill.outlines import prompted_iou
from clip_edge.distill.recipes import RECIPES, clip, sam_clip, segment
from clip_edge.distill.recipes.sam_clip import Config
from clip_edge.distill.settings import EvaluationSettings, LogSettings, OptimizerSettings, ScheduleSettings
from clip_edge.errors import ConfigError, DataError, UsageError

TEXT = {"depth": 1, "width": 32, "heads": 2, "context_length": 24, "causal": False, "pad_mask": True}
TOWER = {"tower": "timm:resnet10t", "args": {"channels": [8, 16, 16, 32], "stem_width": 8}, "size": 48}
NAMER: dict[str, Any] = {
    "name": "namer",
    "embed_dim": 32,
    "image": TOWER,
    "text": TEXT,
    "tokenizer": {"kind": "trained", "vocab_size": 400},
}
MERGED = NAMER | {
    "name": "merged",
    "image": {**TOWER, "size": 32, "head": {"levels": [2, 3], "width": 16, "depth": 1, "heads": 2}, "hidden": 24},
    "masks": {"width": 16, "depth": 1, "heads": 2},
}
LOOP: dict[str, Any] = {
    "steps": 6,
    "batch_size": 8,
    "workers": 0,
    "device": "cpu",
    "optimizer": OptimizerSettings(lr=2e-3),
    "schedule": ScheduleSettings(warmup_steps=2),
    "evaluation": EvaluationSettings(split=""),
    "log": LogSettings(every_steps=1, tensorboard=False, checkpoint_every_steps=2),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # sums in the same order whatever the machine


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("student"), MERGED)


@pytest.fixture(scope="module")
def namer(tmp_path_factory: pytest.TempPathFactory, tiny_emoji: Path) -> Path:
    folder = tmp_path_factory.mktemp("namer")
    clip.run(clip.Config(**LOOP), data=tiny_emoji, student=write(folder, NAMER), out=folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def outliner(tmp_path_factory: pytest.TempPathFactory, tiny_emoji: Path, student: Path) -> Path:
    out = tmp_path_factory.mktemp("outliner") / "run"
    segment.run(segment.Config(**LOOP | {"steps": 12}), data=tiny_emoji, student=student, out=out)
    return out


@pytest.fixture(scope="module")
def probe(
    tmp_path_factory: pytest.TempPathFactory, tiny_emoji: Path, student: Path, namer: Path, outliner: Path
) -> Path:
    out = tmp_path_factory.mktemp("probe") / "run"
    sam_clip.run(Config(teacher=str(namer), start=str(outliner), **LOOP), data=tiny_emoji, student=student, out=out)
    return out


@pytest.fixture(scope="module")
def merging(namer: Path, outliner: Path, probe: Path) -> Config:
    return Config(
        stage="merge",
        teacher=str(namer),
        masks_teacher=str(outliner),
        start=str(probe),
        masks_batch_size=4,
        **LOOP,
    )


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory, tiny_emoji: Path, student: Path, merging: Config) -> Path:
    out = tmp_path_factory.mktemp("merged") / "run"
    sam_clip.run(merging, data=tiny_emoji, student=student, out=out)
    return out


def write(folder: Path, spec: dict[str, Any]) -> Path:
    path = folder / f"{spec['name']}.json"
    path.write_text(json.dumps(spec))
    return path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "model.safetensors")


def changed(a: Path, b: Path) -> set[str]:
    """Parts of the student whose weights differ."""
    first, second = weights(a), weights(b)
    names = {name for name in first if not torch.equal(first[name], second[name])}
    return {".".join(name.split(".")[:2]) if name.startswith("image.") else name.split(".")[0] for name in names}


@pytest.mark.parametrize(("name", "config"), [("segment", segment.Config), ("sam-clip", sam_clip.Config)])
def test_the_commented_defaults_are_those_of_the_dataclass(name: str, config: type) -> None:
    assert load_config(config, [RECIPES[name].defaults]) == config()


def test_segment_learns_outlines_and_leaves_names_alone(
    outliner: Path, tiny_emoji: Path, student: Path, tmp_path: Path
) -> None:
    rows = read_metrics(outliner / "metrics.jsonl")
    assert rows[-1]["outline_loss"] < rows[0]["outline_loss"]
    nothing = segment.Config(**LOOP | {"steps": 1, "optimizer": OptimizerSettings(lr=1e-12, weight_decay=0)})
    segment.run(nothing, data=tiny_emoji, student=student, out=tmp_path / "start")
    assert changed(outliner, tmp_path / "start") == {"image.trunk", "masks"}


def test_segment_looks_at_outlines_while_it_trains(tiny_emoji: Path, student: Path, tmp_path: Path) -> None:
    measured = segment.Config(**LOOP | {"steps": 2, "evaluation": EvaluationSettings(split="val", limit=4)})
    segment.run(measured, data=tiny_emoji, student=student, out=tmp_path / "run")
    (row,) = (row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "val/box/iou" in row)
    assert 0 <= row["val/point/iou"] <= 1


def test_the_probe_trains_the_clip_head_and_takes_over_the_text_tower(probe: Path, outliner: Path, namer: Path) -> None:
    assert changed(probe, outliner) == {"image.projection", "text", "logit_scale"}
    theirs, ours = weights(namer), weights(probe)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if name.startswith("text."))
    rows = read_metrics(probe / "metrics.jsonl")
    assert rows[-1]["clip_loss"] < rows[0]["clip_loss"]


def test_the_merge_trains_all_but_the_text(merged: Path, probe: Path) -> None:
    assert changed(merged, probe) == {"image.trunk", "image.projection", "masks"}
    assert {"clip_loss", "masks_loss", "quality_loss", "agreement"} <= set(read_metrics(merged / "metrics.jsonl")[-1])


def test_backbone_and_masks_move_at_a_tenth_of_the_speed(
    tiny_emoji: Path, student: Path, merging: Config, tmp_path: Path
) -> None:
    """One step of Adam moves every weight by its learning rate."""
    one = replace(
        merging,
        steps=2,
        optimizer=OptimizerSettings(lr=1e-3, weight_decay=0, max_grad_norm=0),
        schedule=ScheduleSettings(warmup_steps=1),
        keep=replace(merging.keep, weights="raw"),
    )
    sam_clip.run(one, data=tiny_emoji, student=student, out=tmp_path / "run")
    before, after = weights(Path(merging.start)), weights(tmp_path / "run")
    moved = {part: max_step(before, after, part) for part in ("image.projection.", "image.trunk.norm.", "masks.last")}
    assert moved["image.projection."] > 5 * moved["image.trunk.norm."] > 0
    assert moved["image.projection."] > 5 * moved["masks.last"] > 0


def max_step(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], part: str) -> float:
    return max(float((after[name] - before[name]).abs().max()) for name in before if name.startswith(part))


def test_without_weight_of_masks_the_masks_keep_their_weights(
    tiny_emoji: Path, student: Path, merging: Config, probe: Path, tmp_path: Path
) -> None:
    plain = replace(merging, masks_weight=0.0, optimizer=OptimizerSettings(lr=2e-3, weight_decay=0))
    sam_clip.run(plain, data=tiny_emoji, student=student, out=tmp_path / "run")
    assert changed(tmp_path / "run", probe) == {"image.trunk", "image.projection"}


def test_a_stopped_merge_goes_on_to_the_same_weights(
    tiny_emoji: Path, student: Path, merging: Config, merged: Path, tmp_path: Path
) -> None:
    sam_clip.run(merging, data=tiny_emoji, student=student, out=tmp_path / "run")
    assert (tmp_path / "run" / "student" / "model.safetensors").read_bytes() == (
        merged / "student" / "model.safetensors"
    ).read_bytes()


def test_the_last_stage_sees_other_sizes(
    tiny_emoji: Path, student: Path, namer: Path, merged: Path, tmp_path: Path
) -> None:
    sizes = Config(stage="resolution", teacher=str(namer), start=str(merged), sizes=(32, 64), **LOOP)
    sam_clip.run(sizes, data=tiny_emoji, student=student, out=tmp_path / "run")
    assert changed(tmp_path / "run", merged) == {"image.projection"}


def test_a_trained_head_outlines(tiny_emoji: Path, outliner: Path) -> None:
    dataset = open_dataset(tiny_emoji, "test")
    loaded = load_student(outliner)
    found = prompted_iou(loaded, dataset, limit=6)
    assert found["images"] == 6
    assert found["objects"] >= 6
    teacher = load_mask_teacher(str(outliner), device=torch.device("cpu"))
    assert prompted_iou(loaded, dataset, limit=6, answer=teacher.outline) == found


def test_outlines_of_pictures_without_masks(tiny_emoji: Path, outliner: Path) -> None:
    dataset = open_dataset(tiny_emoji, "test")
    index = dataset.index.copy()
    index[:, 3] = -1  # no mask anywhere
    with pytest.raises(DataError) as caught:
        prompted_iou(load_student(outliner), dataclasses.replace(dataset, index=index))
    assert caught.value.what == "no picture with an object that can be outlined"
    assert caught.value.hint == "no mask beside the picture"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"start": ""}, "`stage = probe` starts from a student"),
        ({"teacher": ""}, "`stage = probe` needs a CLIP teacher"),
        ({"stage": "merge"}, "`stage = merge` needs a mask teacher"),
        ({"teacher": "open_clip:ViT-B-32:random"}, "`open_clip:ViT-B-32:random` has random weights"),
    ],
)
def test_what_a_stage_needs(
    changes: dict[str, Any], what: str, tiny_emoji: Path, student: Path, namer: Path, outliner: Path, tmp_path: Path
) -> None:
    config = Config(**{"teacher": str(namer), "start": str(outliner)} | LOOP | changes)
    with pytest.raises((ConfigError, UsageError), match=what):
        sam_clip.run(config, data=tiny_emoji, student=student, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_with_another_text_tower(tiny_emoji: Path, student: Path, outliner: Path, tmp_path: Path) -> None:
    other = write(tmp_path, NAMER | {"text": TEXT | {"width": 16}})
    clip.run(clip.Config(**LOOP | {"steps": 1}), data=tiny_emoji, student=other, out=tmp_path / "other")
    config = Config(teacher=str(tmp_path / "other"), start=str(outliner), **LOOP)
    with pytest.raises(ConfigError, match="`text` of the CLIP teacher must be that of the student: expected "):
        sam_clip.run(config, data=tiny_emoji, student=student, out=tmp_path / "run")


def test_a_student_without_a_mask_head(tiny_emoji: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        segment.run(segment.Config(**LOOP), data=tiny_emoji, student=write(tmp_path, NAMER), out=tmp_path / "run")
    assert caught.value.what == "student namer has no mask head"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"chunk_size": 4}, "`chunk_size` must be 0"),
        ({"masks_teacher": "x"}, "belong to `stage = merge`"),
        ({"sizes": (64,)}, "`sizes` belongs to `stage = resolution`"),
        ({"stage": "resolution", "sizes": (8,)}, "`sizes` must lie in 16..4096"),
        ({"backbone_lr_ratio": 0.0}, "`backbone_lr_ratio` must lie in 0..1"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Config(**changes)


def test_a_sam_of_hugging_face_teaches(tiny_emoji: Path, student: Path, merging: Config, tmp_path: Path) -> None:
    """A randomly initialised SAM of the real class, small."""
    transformers = pytest.importorskip("transformers")
    vision = transformers.SamVisionConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=16, window_size=2,
        global_attn_indexes=[0], mlp_dim=32, output_channels=32, num_pos_feats=16,
    )  # fmt: skip
    prompt = transformers.SamPromptEncoderConfig(hidden_size=32, image_size=64, patch_size=16, mask_input_channels=4)
    decoder = transformers.SamMaskDecoderConfig(
        hidden_size=32, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    model = transformers.SamModel(
        transformers.SamConfig(
            vision_config=vision.to_dict(),
            prompt_encoder_config=prompt.to_dict(),
            mask_decoder_config=decoder.to_dict(),
        )
    )
    model.save_pretrained(tmp_path / "sam")
    taught = replace(merging, masks_teacher=f"hf:{tmp_path / 'sam'}", steps=2)
    sam_clip.run(taught, data=tiny_emoji, student=student, out=tmp_path / "run")
    assert load_student(tmp_path / "run").info["provenance"]["teachers"][1]["name"] == "sam"
    teacher = load_mask_teacher(taught.masks_teacher, device=torch.device("cpu"))
    points = torch.tensor([[[[0.1, 0.2], [0.6, 0.7]], [[0.5, 0.5], [0.0, 0.0]]]])
    logits, quality = teacher.outline(torch.randn(1, 3, 64, 64), points, torch.tensor([[[2, 3], [1, -1]]]))
    assert logits.shape[:2] == quality.shape == (2, 3)


def test_a_folder_that_holds_no_sam(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        load_mask_teacher(f"hf:{tmp_path / 'nowhere'}", device=torch.device("cpu"))
