"""The text tower: equal to open_clip's on shared weights, blind to padding, and exportable."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_edge.distill.models.layouts import open_clip as from_open_clip
from clip_edge.distill.models.spec import TextTowerSpec, load_spec
from clip_edge.distill.models.text import HIDDEN, TextTower, eos_rank
from clip_edge.tokenizer import TextSpec

TOKENS = TextSpec(context_length=12, vocab_size=300, pad_id=0, bos_id=1, eos_id=299, clean="none")
OURS = TextTowerSpec(depth=2, width=32, heads=4, context_length=12, causal=False, pad_mask=True)
CLIP = dataclasses.replace(OURS, causal=True, pad_mask=False)


def tower(spec: TextTowerSpec, embed_dim: int = 16) -> TextTower:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TextTower(spec, TOKENS, embed_dim).eval()


def rows(*lengths: int, pad: int = 0) -> torch.Tensor:
    """Rows of random ids with EOS at position `length`."""
    ids = torch.randint(3, 299, (len(lengths), 12), generator=torch.Generator().manual_seed(1))
    for row, length in zip(ids, lengths, strict=True):
        row[0], row[length], row[length + 1 :] = 1, 299, pad
    return ids


@pytest.mark.parametrize("causal", [True, False])
def test_equals_open_clip(causal: bool) -> None:
    from open_clip.transformer import TextTransformer

    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = TextTransformer(
            context_length=12, vocab_size=300, width=32, heads=4, layers=2, output_dim=16, no_causal_mask=not causal
        ).eval()
        for value in theirs.parameters():
            torch.nn.init.normal_(value, std=0.2)
    spec = dataclasses.replace(CLIP, causal=causal)
    ours = tower(spec)
    state = from_open_clip({f"text.{name}": value for name, value in theirs.state_dict().items()})
    ours.load_state_dict({name.removeprefix("text."): value for name, value in state.items()})
    ids = rows(1, 5, 11)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("pool", ["eos", "mean"])
def test_padding_changes_nothing(pool: str) -> None:
    ours = tower(dataclasses.replace(OURS, pool=pool))
    with torch.no_grad():
        expected = ours(rows(1, 5, 11))
        torch.testing.assert_close(ours(rows(1, 5, 11, pad=7)), expected, atol=0, rtol=0)
        torch.testing.assert_close(ours(rows(5)[:, :6]), ours(rows(5)))


def test_clip_towers_see_padding_behind_a_bidirectional_eos() -> None:
    """MobileCLIP's towers have neither mask: another pad id is another embedding, so it must never change."""
    ours = tower(dataclasses.replace(CLIP, causal=False))
    with torch.no_grad():
        assert (ours(rows(5)) - ours(rows(5, pad=7))).abs().max() > 1e-4


def test_causal_tower_is_blind_to_what_follows() -> None:
    ours = tower(CLIP)
    with torch.no_grad():
        torch.testing.assert_close(ours(rows(5)), ours(rows(5, pad=7)), atol=0, rtol=0)


def test_first_eos_counts() -> None:
    """EOS at positions 1 and 11, and repeated behind the first one, as tokenizers that pad with EOS do."""
    ours = tower(CLIP)
    with torch.no_grad():
        torch.testing.assert_close(ours(rows(5, pad=299)), ours(rows(5)), atol=0, rtol=0)
        at = eos_rank(rows(1, 5, 11, pad=299), ours.tokens.eos_id).argmax(1)
    assert at.tolist() == [1, 5, 11]


def test_row_without_eos_pools_its_first_token() -> None:
    ours = tower(CLIP)
    ids = torch.full((1, 12), 5)
    with torch.no_grad():
        pooled = ours._pool(torch.arange(12.0).reshape(1, 12, 1).expand(1, 12, 32), ids)
    assert (pooled == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masks_are_finite_and_hide_exactly(dtype: torch.dtype) -> None:
    ours = tower(dataclasses.replace(OURS, causal=True)).to(dtype)
    mask = ours._mask(rows(1, 11), dtype)
    assert mask is not None
    assert mask.isfinite().all()
    assert torch.softmax(torch.tensor([0.0, HIDDEN], dtype=dtype), 0).tolist() == [1, 0]
    with torch.no_grad():
        assert ours(rows(1, 11)).isfinite().all()


def test_ids_of_any_integer_type() -> None:
    ours = tower(OURS)
    with torch.no_grad():
        assert torch.equal(ours(rows(4).int()), ours(rows(4)))


def test_gradient_reaches_every_parameter() -> None:
    ours = tower(OURS)
    ours(rows(3, 11)).square().sum().backward()
    assert [name for name, value in ours.named_parameters() if value.grad is None] == []


@pytest.mark.slow
@pytest.mark.parametrize("spec", [OURS, CLIP, dataclasses.replace(OURS, pool="mean", mixer_kernel=5)])
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_exports_with_a_dynamic_batch(spec: TextTowerSpec, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    ours = tower(spec)
    path = tmp_path / "text.onnx"
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.onnx.export(
        ours, (rows(3, 5),), path, input_names=["ids"], dynamo=True, opset_version=18, dynamic_shapes=({0: batch},)
    )
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert not kinds & {"If", "Loop", "NonZero", "ArgMax", "GatherND"}
    session = onnxruntime.InferenceSession(path)
    for ids in (rows(1), rows(1, 5, 11), rows(2, 3, 4, 5, 6, 7, 8)):
        (found,) = session.run(None, {"ids": ids.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, ours(ids).numpy(), atol=2e-6)


def test_shipped_towers_say_how_they_treat_padding() -> None:
    assert load_spec("nano-s").text.pad_mask
    assert not load_spec("mobileclip-s1").text.pad_mask
    assert load_spec("mobileclip-b").text.causal
