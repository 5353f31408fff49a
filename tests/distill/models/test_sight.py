"""What segmentation asks of a model: the same from a student as from its parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from clip_edge.distill.models.checkpoint import load_student
from clip_edge.distill.models.sight import Sight, sight_of
from clip_edge.errors import ConfigError


def test_a_student_shows_its_map_places_and_masks(tiny_merged: Path) -> None:
    student = load_student(tiny_merged).student.eval()
    sight = sight_of(student)
    assert sight.masks is student.masks
    with torch.inference_mode():
        maps = sight.encode(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
        places = sight.places(maps)
    assert (maps.shape, places.shape) == ((2, 16, 4, 4), (2, 24, 4, 4))
    assert places.norm(dim=1).flatten().tolist() == pytest.approx([1.0] * 32, abs=1e-5)


def test_other_models_bring_their_own_or_are_refused() -> None:
    model = nn.Identity()
    with pytest.raises(ConfigError, match="this model only embeds whole pictures"):
        sight_of(model)
    model.sight = Sight(lambda pixels: pixels, lambda maps: maps, None)  # type: ignore[assignment]
    assert sight_of(model) is model.sight
