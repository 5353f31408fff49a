"""The optimiser's groups, the schedule and the average of the weights."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from clip_edge.distill import optim
from clip_edge.distill.settings import OptimizerSettings, ScheduleSettings


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))


def test_norms_biases_and_scales_have_no_weight_decay() -> None:
    model = Tower()
    decayed, plain = optim.build_optimizer(model, OptimizerSettings(weight_decay=0.2)).param_groups
    assert decayed["weight_decay"] == 0.2
    assert [id(p) for p in decayed["params"]] == [id(model.linear.weight)]
    assert plain["weight_decay"] == 0
    assert len(plain["params"]) == 4


def test_frozen_parameters_are_left_to_themselves() -> None:
    model = Tower()
    model.linear.requires_grad_(False)
    groups = optim.build_optimizer(model, OptimizerSettings()).param_groups
    assert sum(len(group["params"]) for group in groups) == 3


def test_the_rate_warms_up_and_ends_where_it_should() -> None:
    schedule = ScheduleSettings(warmup_steps=10, final_lr_ratio=0.1)
    rates = [optim.lr_at(step, 2.0, 110, schedule) for step in range(1, 111)]
    assert rates[:10] == pytest.approx([0.2 * i for i in range(1, 11)])
    assert rates[59] == pytest.approx(1.1)  # half way down the cosine, between 2.0 and 0.2
    assert rates[-1] == pytest.approx(0.2)
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))


def test_without_warm_up_the_cosine_begins_at_once() -> None:
    schedule = ScheduleSettings(warmup_steps=0)
    assert optim.lr_at(1, 1.0, 4, schedule) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert optim.lr_at(4, 1.0, 4, schedule) == pytest.approx(0, abs=1e-12)


def test_gradients_are_scaled_to_the_norm_and_the_norm_before_is_told() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert optim.clip_gradients(model, 1.0).item() == pytest.approx(5)
    assert model.weight.grad.norm().item() == pytest.approx(1, rel=1e-5)


def test_a_norm_of_zero_means_no_clipping() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert optim.clip_gradients(model, 0.0).item() == pytest.approx(5)
    assert model.weight.grad.tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize(("value", "kept"), [(9.0, math.log(100)), (-1.0, 0.0), (2.0, 2.0)])
def test_the_logit_scale_stays_between_1_and_100(value: float, kept: float) -> None:
    model = Tower()
    model.logit_scale.data.fill_(value)
    optim.clamp_logit_scale(model)
    assert model.logit_scale.item() == pytest.approx(kept)


def test_the_average_follows_its_formula_and_copies_counters() -> None:
    model = Tower()
    ema = optim.ema_copy(model)
    before = model.linear.weight.detach().clone()
    with torch.no_grad():
        model.linear.weight.add_(1.0)
        model.norm.running_mean.fill_(4.0)
        model.norm.num_batches_tracked.fill_(7)
    optim.update_ema(ema, model, 0.75)
    torch.testing.assert_close(ema.linear.weight, before + 0.25)
    torch.testing.assert_close(ema.norm.running_mean, torch.full((4,), 1.0))
    assert ema.norm.num_batches_tracked.item() == 7
    assert not ema.training
    assert not any(p.requires_grad for p in ema.parameters())


def test_the_average_starts_warm() -> None:
    assert optim.ema_decay(1, 0.999) == pytest.approx(2 / 11)
    assert optim.ema_decay(100_000, 0.999) == 0.999


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (OptimizerSettings, {"lr": 0.0}, "`lr` must be above 0; found 0.0"),
        (OptimizerSettings, {"beta1": 1.0}, "`beta1` and `beta2` must lie in 0..1; found 1.0 and 0.98"),
        (ScheduleSettings, {"warmup_steps": -1}, "`warmup_steps` must not be negative; found -1"),
    ],
)
def test_settings_out_of_range_are_refused(kind: type, wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        kind(**wrong)
    assert str(caught.value) == message
