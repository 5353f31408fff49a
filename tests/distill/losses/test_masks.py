"""Losses of outlines: known values, agreement with torchvision's focal loss, and what counts as the same."""

from __future__ import annotations

import torch
from torchvision.ops import sigmoid_focal_loss

from clip_edge.distill.losses.masks import (
    dice_loss,
    focal_loss,
    follow_outlines,
    learn_outlines,
    mask_iou,
    outline_loss,
)

SURE = 30.0  # a logit whose probability is 1 in fp32


def square(left: int, right: int) -> torch.Tensor:
    mask = torch.zeros(8, 8)
    mask[:, left:right] = 1
    return mask


def test_focal_loss_of_hard_targets_is_torchvisions() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 8, 8), (torch.rand(3, 8, 8) > 0.5).float()
    theirs = sigmoid_focal_loss(logits, target, alpha=-1, gamma=2, reduction="none").mean((-2, -1))
    torch.testing.assert_close(focal_loss(logits, target), theirs)


def test_a_soft_target_that_is_met_costs_nothing_in_the_focal_loss() -> None:
    logits = torch.randn(2, 8, 8)
    torch.testing.assert_close(focal_loss(logits, logits.sigmoid()), torch.zeros(2))


def test_dice_loss() -> None:
    ours, theirs = square(0, 4), square(2, 6)
    torch.testing.assert_close(dice_loss((ours - 0.5) * 2 * SURE, ours), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(dice_loss((ours - 0.5) * 2 * SURE, theirs), torch.tensor(1 - 33 / 65))


def test_the_two_are_weighed_20_to_1() -> None:
    logits, target = torch.randn(2, 8, 8), square(1, 5).expand(2, 8, 8)
    expected = 20 * focal_loss(logits, target) + dice_loss(logits, target)
    torch.testing.assert_close(outline_loss(logits, target), expected)


def test_iou() -> None:
    ours, theirs = (square(0, 4) - 0.5) * 2, square(2, 6)
    torch.testing.assert_close(mask_iou(ours, theirs), torch.tensor(2 / 6))
    assert mask_iou(ours, square(0, 4)) == 1
    assert mask_iou(-torch.ones(8, 8), torch.zeros(8, 8)) == 1  # both say: nothing


def test_the_best_answer_learns_and_all_estimate() -> None:
    target = square(0, 4)
    answers = torch.stack([square(0, 4), square(2, 6), square(4, 8)])  # IoU 1, 1/3, 0
    logits = ((answers - 0.5) * 2 * SURE)[None].requires_grad_()
    quality = torch.tensor([[1.0, 0.5, 0.0]])
    found = learn_outlines(logits, quality, target[None])
    torch.testing.assert_close(found["outline"], torch.zeros(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(found["quality"], torch.tensor([(0.5 - 1 / 3) ** 2 / 3]))
    assert found["iou"] == 1
    found["outline"].sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 1:].abs().sum() == 0


def test_following_oneself_costs_nothing_but_doubt() -> None:
    logits = (square(0, 4) - 0.5).expand(2, 3, 8, 8) * 2 * SURE
    quality = torch.rand(2, 3)
    found = follow_outlines(logits, quality, logits, quality)
    torch.testing.assert_close(found["outline"], torch.zeros(2), atol=1e-5, rtol=0)
    assert found["quality"].sum() == 0
    assert (found["iou"] == 1).all()


def test_answers_follow_those_of_the_same_number() -> None:
    sure = [(one - 0.5) * 2 * SURE for one in (square(0, 4), square(4, 8), square(2, 6))]
    teacher, swapped = torch.stack(sure)[None], torch.stack([sure[1], sure[0], sure[2]])[None]
    quality = torch.zeros(1, 3)
    assert follow_outlines(swapped, quality, teacher, quality)["outline"] > 1


def test_a_teacher_of_another_resolution() -> None:
    teacher = torch.nn.functional.interpolate((square(0, 4) - 0.5).expand(1, 3, 8, 8) * 20, (16, 16))
    found = follow_outlines((square(0, 4) - 0.5).expand(1, 3, 8, 8) * 20, torch.ones(1, 3), teacher, torch.ones(1, 3))
    assert found["outline"] < 0.1
