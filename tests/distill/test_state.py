"""Checkpoints: whole or not at all, bit for bit, and damage is seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from clip_edge.console import Console
from clip_edge.distill import optim
from clip_edge.distill.settings import OptimizerSettings
from clip_edge.distill.state import Best, TrainingState, restore_newest, save_state, saved_states
from clip_edge.errors import CheckpointError


@dataclass
class Listener(Console):
    def warn(self, text: str) -> None:
        self.heard = [*getattr(self, "heard", []), text]


def fresh(seed: int = 0, width: int = 4) -> TrainingState:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 4, 2))
    model = model.to(memory_format=torch.channels_last)
    optimizer = optim.build_optimizer(model, OptimizerSettings(lr=0.01))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingState(model, optimizer, scaler, ema=optim.ema_copy(model))


def advance(state: TrainingState, steps: int) -> None:
    for _ in range(steps):
        state.step += 1
        torch.manual_seed(state.step)
        state.optimizer.zero_grad()
        state.model(torch.randn(8, 3, 4, 4)).square().mean().backward()
        state.optimizer.step()
        optim.update_ema(state.ema, state.model, 0.9)


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def test_a_restored_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    undisturbed = fresh()
    advance(undisturbed, 5)
    save_state(undisturbed, tmp_path)
    advance(undisturbed, 5)

    resumed = fresh(seed=9)
    assert restore_newest(resumed, tmp_path)
    assert resumed.step == 5
    advance(resumed, 5)
    assert_same(resumed.model, undisturbed.model)
    assert_same(resumed.ema, undisturbed.ema)


def test_moments_keep_the_memory_layout_of_their_parameter(tmp_path: Path) -> None:
    state = fresh()
    advance(state, 1)
    save_state(state, tmp_path)
    resumed = fresh()
    restore_newest(resumed, tmp_path)
    for parameter in resumed.model.parameters():
        assert resumed.optimizer.state[parameter]["exp_avg"].stride() == parameter.stride()


def test_the_best_weights_travel(tmp_path: Path) -> None:
    state = fresh()
    state.best = Best(0.5, 3, {name: value.clone() for name, value in state.model.state_dict().items()})
    state.at_chance = 2
    advance(state, 4)
    save_state(state, tmp_path)
    resumed = fresh(seed=9)
    restore_newest(resumed, tmp_path)
    assert resumed.best is not None
    assert (resumed.best.score, resumed.best.step, resumed.at_chance) == (0.5, 3, 2)
    assert torch.equal(resumed.best.weights["0.weight"], state.best.weights["0.weight"])


def test_the_last_two_are_kept_and_nothing_half_written_stays(tmp_path: Path) -> None:
    state = fresh()
    (tmp_path / "state" / ".step-00000001.partial-7").mkdir(parents=True)  # what a killed process left
    for _ in range(4):
        advance(state, 1)
        save_state(state, tmp_path)
    assert [path.name for path in (tmp_path / "state").iterdir()] == unordered("step-00000003", "step-00000004")
    assert sorted(path.name for path in saved_states(tmp_path)[-1].iterdir()) == [
        "ema.safetensors",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]


def unordered(*names: str) -> object:
    class Unordered:
        def __eq__(self, other: object) -> bool:
            return isinstance(other, list) and sorted(other) == sorted(names)

    return Unordered()


def test_nothing_to_restore(tmp_path: Path) -> None:
    assert not restore_newest(fresh(), tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path: Path, name: str) -> None:
    state = fresh()
    for _ in range(2):
        advance(state, 1)
        save_state(state, tmp_path)
    damaged = saved_states(tmp_path)[-1] / name
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)

    console, resumed = Listener(), fresh(seed=9)
    assert restore_newest(resumed, tmp_path, console=console)
    assert resumed.step == 1
    assert console.heard[0].startswith("checkpoint step-00000002 is left out: ")


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    state = fresh()
    advance(state, 1)
    (save_state(state, tmp_path) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        restore_newest(fresh(), tmp_path, console=Listener())
    assert str(caught.value) == (
        f"no checkpoint of this run can be read\n  in: {tmp_path / 'state'}\n\nhint: start again with another --out"
    )
    assert "missing file: model.safetensors" in str(caught.value.__cause__)


def test_another_model_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    state = fresh()
    advance(state, 1)
    save_state(state, tmp_path)
    other = fresh(width=5)
    before = other.model[0].weight.detach().clone()
    with pytest.raises(CheckpointError):
        restore_newest(other, tmp_path, console=Listener())
    assert torch.equal(other.model[0].weight, before)
    assert other.step == 0
