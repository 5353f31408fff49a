"""Folding training-time branches changes no number, and leaves none behind."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from clip_edge.distill.models.checkpoint import load_student
from clip_edge.distill.models.image import ImageTower as TrainedImageTower
from clip_edge.distill.models.spec import ImageSpec
from clip_edge.distill.models.student import Student
from clip_edge.errors import ExportError
from clip_edge.export import towers
from clip_edge.export.towers import ImageTower, TextTower, fold, probe_ids, probe_pixels, reparameterize


@pytest.fixture
def student(tiny_student: Path) -> Student:
    return load_student(tiny_student).student


def settle(model: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics of its own, so that folding has something to get wrong."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(
    ("tower", "args"),
    [
        ("fastvit_t8", {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 128)}),
        ("mobileone_s1", {}),
        ("repvit_m0_9", {}),
        ("repghostnet_050", {}),
    ],
)
def test_reparameterized_towers_give_the_same(tower: str, args: dict[str, object]) -> None:
    trained = settle(TrainedImageTower(ImageSpec(f"timm:{tower}", 64, args), 24))
    folded = copy.deepcopy(trained)
    reparameterize(folded)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before, after = trained(pixels), folded(pixels)
    assert sum(p.numel() for p in folded.parameters()) < sum(p.numel() for p in trained.parameters())
    assert not any(module.training for module in folded.modules())
    assert torch.nn.functional.cosine_similarity(before, after).min() > 0.99999


def test_towers_give_the_unit_vectors_of_the_student(student: Student) -> None:
    pixels, ids = probe_pixels(student.spec.image.size), probe_ids(student.text.tokens)
    image = fold("image", ImageTower(student.image.trunk, student.image.projection), pixels)
    text = fold("text", TextTower(student.text), ids)
    with torch.inference_mode():
        assert torch.allclose(image(pixels), student.encode_image(pixels), atol=1e-6)
        assert torch.allclose(text(ids), student.encode_text(ids), atol=1e-6)
    assert not any(module.training for module in (*image.modules(), *text.modules()))


def test_the_student_is_not_touched(student: Student) -> None:
    before = {name: value.clone() for name, value in student.state_dict().items()}
    fold("text", TextTower(student.text), probe_ids(student.text.tokens))
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_a_block_that_keeps_its_branches_is_refused() -> None:
    block = nn.Sequential(nn.Linear(2, 2))
    block[0].reparam_conv = None
    with pytest.raises(ExportError) as caught:
        reparameterize(block.eval())
    assert str(caught.value) == "a block kept its training-time form: 0\n  in: Linear"


def test_a_wrong_fold_is_refused(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_it(model: ImageTower) -> None:
        model.projection.weight.data.mul_(-1)

    monkeypatch.setattr(towers, "reparameterize", break_it)
    with pytest.raises(ExportError, match="folding changed the image tower: embeddings differ by ") as caught:
        fold("image", ImageTower(student.image.trunk, student.image.projection), probe_pixels(student.spec.image.size))
    assert caught.value.exit_code == 1


def test_probes_are_the_same_every_time(student: Student) -> None:
    assert torch.equal(probe_pixels(32), probe_pixels(32))
    ids = probe_ids(student.text.tokens)
    assert ids.dtype == torch.int64
    eos = student.text.tokens.eos_id
    assert (ids == eos).sum(1).tolist() == [1, 1] or student.text.tokens.pad_id == eos
