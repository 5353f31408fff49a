"""The Text-RepMixer: folding into one convolution changes no number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clip_edge.distill.models.mixer import TextMixer, TokenMixer


def randomised(module: nn.Module) -> nn.Module:
    """Weights and running statistics far from where they start, so that every term counts."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if "running_var" in name:
            value.uniform_(0.5, 2, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, 0.5, generator=generator)
    return module.eval()


@pytest.mark.parametrize("kernel", [1, 3, 11])
def test_folding_keeps_the_numbers(kernel: int) -> None:
    mixer = TokenMixer(8, kernel)
    randomised(mixer)
    x = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = mixer(x)
        mixer.reparameterize()
        torch.testing.assert_close(mixer(x), before, atol=1e-5, rtol=1e-5)
        mixer.reparameterize()
        torch.testing.assert_close(mixer(x), before, atol=1e-5, rtol=1e-5)
    assert [type(child) for child in mixer.children()] == [nn.Conv1d]
    assert sum(value.numel() for value in mixer.parameters()) == 8 * kernel + 8


def test_the_whole_block_folds() -> None:
    """As the exporter does it; no BatchNorm is left."""
    from timm.utils import reparameterize_model

    block = TextMixer(8, 5, 2.0)
    randomised(block)
    x = torch.randn(3, 20, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        folded = reparameterize_model(nn.Sequential(block))[0]
        torch.testing.assert_close(folded(x, None), block(x, None), atol=1e-5, rtol=1e-5)
    assert not [child for child in folded.modules() if child.training or isinstance(child, nn.BatchNorm1d)]


def test_starts_almost_silent() -> None:
    mixer = TextMixer(8, 11, 4.0).eval()
    x = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(mixer(x, None), x, atol=1e-3, rtol=0)


def test_mixes_only_neighbours() -> None:
    mixer = TextMixer(4, 3, 2.0)
    randomised(mixer)
    x = torch.randn(1, 15, 4, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[:, 7] += 1
    with torch.no_grad():
        moved = (mixer(changed, None) - mixer(x, None)).abs().amax(-1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == [5, 6, 7, 8, 9]  # two convolutions of three
