"""The Text-RepMixer block of MobileCLIP-S0: convolution over tokens, folded into one kernel before export."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_SCALE_INIT = 1e-5  # MobileCLIP (Vasu et al. 2024): branches start almost silent


class TextMixer(nn.Module):
    """(B, L, W) -> (B, L, W). Mixes each channel over neighbouring tokens, then channels (MobileCLIP, section 4.2)."""

    def __init__(self, width: int, kernel: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.token_mixer = TokenMixer(width, kernel)
        self.depthwise = _depthwise(width, kernel, bias=False)
        self.depthwise_norm: nn.Module = nn.BatchNorm1d(width)
        self.fc1 = nn.Conv1d(width, hidden, 1)
        self.fc2 = nn.Conv1d(hidden, width, 1)
        self.scale = nn.Parameter(torch.full((width, 1), LAYER_SCALE_INIT))
        for conv in (self.depthwise, self.fc1, self.fc2):
            nn.init.trunc_normal_(conv.weight, std=0.02)
        nn.init.zeros_(self.fc1.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.fc2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`mask` is not for convolutions: they see padding, as the published model does."""
        x = self.token_mixer(x.transpose(1, 2))  # (B, L, W) -> (B, W, L)
        y = self.fc2(F.gelu(self.fc1(self.depthwise_norm(self.depthwise(x)))))
        return (x + self.scale * y).transpose(1, 2)  # type: ignore[no-any-return]

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Fold the BatchNorm into its convolution, in place; a second call changes nothing."""
        if isinstance(self.depthwise_norm, nn.BatchNorm1d):
            self.depthwise = _folded(*_through_norm(self.depthwise.weight, self.depthwise_norm))
            self.depthwise_norm = nn.Identity().eval()


class TokenMixer(nn.Module):
    """x + scale * (mixer(x) - norm(x)) while training; one depthwise convolution after `reparameterize`.

    `mixer` is a depthwise convolution and a skip, each before its own BatchNorm; `norm` is the BatchNorm of a skip
    alone. All of it is linear in x, so it folds (FastViT, Vasu et al. 2023, section 3.1).
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.conv = _depthwise(width, kernel, bias=False)
        self.conv_norm = nn.BatchNorm1d(width)
        self.skip_norm = nn.BatchNorm1d(width)
        self.norm = nn.BatchNorm1d(width)
        self.scale = nn.Parameter(torch.full((width, 1), LAYER_SCALE_INIT))
        self.folded: nn.Conv1d | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, L) -> (B, W, L)"""
        if self.folded is not None:
            return self.folded(x)  # type: ignore[no-any-return]
        mixed = self.conv_norm(self.conv(x)) + self.skip_norm(x)
        return x + self.scale * (mixed - self.norm(x))  # type: ignore[no-any-return]

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Fold all branches into one convolution, in place; a second call changes nothing."""
        if self.folded is not None:
            return
        identity = torch.zeros_like(self.conv.weight)
        identity[:, :, identity.shape[-1] // 2] = 1
        terms = [
            _through_norm(self.conv.weight, self.conv_norm),
            _through_norm(identity, self.skip_norm),
        ]
        minus_weight, minus_bias = _through_norm(identity, self.norm)
        scale = self.scale.squeeze(1)  # (W, 1) -> (W,)
        self.folded = _folded(
            identity + scale[:, None, None] * (sum(weight for weight, _ in terms) - minus_weight),
            scale * (sum(bias for _, bias in terms) - minus_bias),
        )
        for name in ("conv", "conv_norm", "skip_norm", "norm", "scale"):
            delattr(self, name)


def _depthwise(width: int, kernel: int, *, bias: bool) -> nn.Conv1d:
    return nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=bias)


def _folded(weight: Tensor, bias: Tensor) -> nn.Conv1d:
    conv = _depthwise(weight.shape[0], weight.shape[-1], bias=True).to(weight)
    conv.weight.copy_(weight)
    assert conv.bias is not None
    conv.bias.copy_(bias)
    return conv.eval()


def _through_norm(weight: Tensor, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Weight (W, 1, K) and bias (W,) of a depthwise convolution followed by `norm` in eval mode."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return weight * gain[:, None, None], norm.bias - norm.running_mean * gain
