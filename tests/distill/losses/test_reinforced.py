"""The reinforced loss: the five properties that define it, against open_clip and against itself in parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clip_edge.distill.losses.reinforced import reinforced_loss

SCALE = torch.tensor(14.0)
COUNT, DIM = 12, 8


def unit(*shape: int, seed: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=source), dim=-1)


def example(dims: Sequence[int] = (6, 10)) -> dict[str, Any]:
    """A student that has not learnt yet, and teachers of these sizes."""
    image = [unit(COUNT, dim, seed=10 + k) for k, dim in enumerate(dims)]
    texts = [unit(COUNT, 2, dim, seed=20 + k) for k, dim in enumerate(dims)]
    return {
        "image": unit(COUNT, DIM, seed=0),
        "texts": unit(COUNT, 2, DIM, seed=1),
        "logit_scale": SCALE,
        "teacher_image": torch.cat(image, dim=-1),
        "teacher_texts": torch.cat(texts, dim=-1),
        "dims": tuple(dims),
        "scales": (70.0, 60.0, 50.0)[: len(dims)],
        "distill_weight": 0.75,
    }


def loss(**changes: Any) -> dict[str, Tensor]:
    return reinforced_loss(**(example() | changes))


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    given = example([DIM]) | {"scales": (14.0,), "distill_weight": 1.0}
    for name in ("image", "texts"):
        given[name] = given[f"teacher_{name}"].clone().requires_grad_()
    given["logit_scale"] = SCALE.clone().requires_grad_()
    terms = reinforced_loss(**given)
    for name in ("reinforced_loss", "true/kl", "synthetic/kl"):
        assert terms[name].item() == pytest.approx(0, abs=1e-6)
    gradients = torch.autograd.grad(terms["reinforced_loss"], [given["image"], given["texts"], given["logit_scale"]])
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)


def test_two_identical_teachers_are_one() -> None:
    one = example([6])
    two = one | {name: torch.cat([one[name]] * 2, dim=-1) for name in ("teacher_image", "teacher_texts")}
    torch.testing.assert_close(
        reinforced_loss(**two | {"dims": (6, 6), "scales": (70.0, 70.0)}), reinforced_loss(**one)
    )


def test_the_mean_over_equal_shares_is_the_whole() -> None:
    shares = [loss(rows=slice(start, start + 3)) for start in range(0, COUNT, 3)]
    whole = loss()
    for name, value in whole.items():
        torch.testing.assert_close(torch.stack([share[name] for share in shares]).mean(), value)


def test_without_teachers_it_is_the_loss_of_open_clip_on_both_batches() -> None:
    from open_clip.loss import ClipLoss

    given, terms = example(), loss(distill_weight=0.0)
    expected = [ClipLoss()(given["image"], given["texts"][:, t], SCALE) for t in (0, 1)]
    torch.testing.assert_close(terms["true/contrastive"], expected[0])
    torch.testing.assert_close(terms["synthetic/contrastive"], expected[1])
    torch.testing.assert_close(terms["reinforced_loss"], expected[0] + expected[1])


def test_the_order_of_the_batch_does_not_matter() -> None:
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    mixed = {name: example()[name][order] for name in ("image", "texts", "teacher_image", "teacher_texts")}
    torch.testing.assert_close(loss(**mixed), loss())


def test_the_loss_is_the_formula_written_out() -> None:
    given, terms = example(), loss()
    expected = 0.0
    for t in range(2):
        student = SCALE * given["image"] @ given["texts"][:, t].T
        for logits, across in ((student, False), (student.T, True)):
            log_q = logits.log_softmax(1)
            expected += 0.25 * -log_q.diagonal().mean() / 2
            for k, (start, end) in enumerate(((0, 6), (6, 16))):
                image, text = given["teacher_image"][:, start:end], given["teacher_texts"][:, t, start:end]
                teacher = given["scales"][k] * (text @ image.T if across else image @ text.T)
                p = teacher.softmax(1)
                expected += 0.75 * (p * (p.clamp_min(1e-30).log() - log_q)).sum() / (2 * COUNT * 2)
    torch.testing.assert_close(terms["reinforced_loss"], expected)
    assert terms.keys() == {"reinforced_loss", "true/contrastive", "true/kl", "synthetic/contrastive", "synthetic/kl"}


def test_the_loss_is_the_weighted_sum_of_what_is_reported() -> None:
    terms = loss()
    expected = sum(0.25 * terms[f"{name}/contrastive"] + 0.75 * terms[f"{name}/kl"] for name in ("true", "synthetic"))
    torch.testing.assert_close(terms["reinforced_loss"], expected)
    one = example()
    alone = loss(texts=one["texts"][:, :1], teacher_texts=one["teacher_texts"][:, :1], names=("true",))
    torch.testing.assert_close(alone["true/kl"], terms["true/kl"])
    assert alone.keys() == {"reinforced_loss", "true/contrastive", "true/kl"}


def test_teachers_get_no_gradient_and_the_scale_learns_from_them_alone() -> None:
    taught = {name: example()[name].requires_grad_() for name in ("teacher_image", "teacher_texts")}
    scale = SCALE.clone().requires_grad_()
    loss(**taught, logit_scale=scale, distill_weight=1.0)["reinforced_loss"].backward()
    assert all(tensor.grad is None for tensor in taught.values())
    assert scale.grad is not None
    assert scale.grad.item() != 0


def test_gradients_are_those_of_the_formula() -> None:
    given = {name: value.double() if isinstance(value, Tensor) else value for name, value in example([3]).items()}
    inputs = [given[name][:5].clone().requires_grad_() for name in ("image", "texts")]
    taught = {name: given[name][:5] for name in ("teacher_image", "teacher_texts")}

    def value(image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
        return reinforced_loss(**given | taught | {"image": image, "texts": texts, "logit_scale": scale})[
            "reinforced_loss"
        ]

    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (*inputs, scale))


def test_a_sharp_teacher_in_bf16_gives_no_nan() -> None:
    given = example()
    sharp = {name: given[name].bfloat16() for name in ("teacher_image", "teacher_texts")}
    value = loss(**sharp, scales=(1000.0, 1000.0))["reinforced_loss"].item()
    assert math.isfinite(value)
    assert value > 0
