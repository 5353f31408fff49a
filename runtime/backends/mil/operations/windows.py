"""Operations that slide over a picture or a row: convolution and pooling, in one or two dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray


def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    dilations: Array | None = None,
    groups: Array | int = 1,
) -> Array:
    """(B, C, ...), (O, C / groups, ...) -> (B, O, ...)"""
    if x.ndim == 3:  # a row is a picture of height one
        wide = [None if values is None else [one, *values] for values, one in ((strides, 1), (dilations, 1))]
        flat = None if pad is None else np.concatenate([[0, 0], pad])
        found = conv(x[:, :, None], weight[:, :, None], bias, wide[0], pad_type, flat, wide[1], groups)  # type: ignore[arg-type]
        return found[:, :, 0]
    stride, dilation = _pair(strides), _pair(dilations)
    kernel = weight.shape[2:]
    x = _padded(x, kernel, stride, dilation, pad_type, pad, 0.0)
    if int(groups) == x.shape[1] and weight.shape[1] == 1:
        found = _depthwise(x, weight, stride, dilation)
    else:
        found = _grouped(x, weight, stride, dilation, int(groups))
    return found if bias is None else found + bias.reshape(-1, 1, 1)


def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    pad: Array | None = None,
    output_shape: Array | None = None,
    pad_type: str = "valid",
    strides: Array | None = None,
    dilations: Array | None = None,
    groups: Array | int = 1,
) -> Array:
    """(B, C, H, W), (C, O, h, w) -> (B, O, ...): every number spreads over the places of its window, which add up."""
    if int(groups) != 1 or pad_type not in ("valid", "custom") or x.ndim != 4:
        raise ValueError("conv_transpose is known here in two dimensions, with one group and padding in numbers")
    stride, dilation = _pair(strides), _pair(dilations)
    sides = [(x.shape[2 + i] - 1) * stride[i] + (weight.shape[2 + i] - 1) * dilation[i] + 1 for i in range(2)]
    found = np.zeros((len(x), weight.shape[1], *sides), np.float32)
    for row, column, part in _taps(found, weight.shape[2:], stride, dilation):  # views: what is added stays
        part += np.einsum("bchw,co->bohw", x, weight[:, :, row, column])
    if pad is not None and pad_type == "custom":
        found = found[:, :, int(pad[0]) : sides[0] - int(pad[1]), int(pad[2]) : sides[1] - int(pad[3])]
    wanted = found.shape if output_shape is None else tuple(int(side) for side in output_shape)
    if found.shape != wanted:
        raise ValueError(f"conv_transpose must give {wanted}; found {found.shape}")
    return found if bias is None else found + bias.reshape(-1, 1, 1)


def _depthwise(x: Array, weight: Array, stride: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """One filter or several for each channel: a sum over the taps of the kernel."""
    if (times := len(weight) // x.shape[1]) > 1:
        x = np.repeat(x, times, 1)
    total: Array | None = None
    for row, column, part in _taps(x, weight.shape[2:], stride, dilation):
        product = part * weight[:, 0, row, column].reshape(-1, 1, 1)
        total = product if total is None else np.add(total, product, out=total)
    assert total is not None
    return total


def _grouped(x: Array, weight: Array, stride: tuple[int, int], dilation: tuple[int, int], groups: int) -> Array:
    """Every place as a column, then one matrix product for each group."""
    batch, channels, outputs = len(x), x.shape[1], len(weight)
    parts = [part for _, _, part in _taps(x, weight.shape[2:], stride, dilation)]
    height, width = parts[0].shape[2:]
    columns = np.stack(parts, 2) if len(parts) > 1 else parts[0][:, :, None]  # (B, C, K, H, W)
    columns = columns.reshape(batch, groups, channels // groups * len(parts), height * width)
    rows = weight.reshape(groups, outputs // groups, -1)
    found: Array = np.matmul(rows, columns)  # (G, O/G, C/G*K) @ (B, G, C/G*K, H*W)
    return found.reshape(batch, outputs, height, width)


def _taps(
    x: Array, kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]
) -> Iterator[tuple[int, int, Array]]:
    """For each tap of the kernel what it sees at every place."""
    height, width = ((x.shape[2 + i] - (kernel[i] - 1) * dilation[i] - 1) // stride[i] + 1 for i in range(2))
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            top, left = row * dilation[0], column * dilation[1]
            bottom, right = top + (height - 1) * stride[0] + 1, left + (width - 1) * stride[1] + 1
            yield row, column, x[:, :, top : bottom : stride[0], left : right : stride[1]]


def avg_pool(
    x: Array,
    kernel_sizes: Array,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    exclude_padding_from_average: Array | bool = False,
    ceil_mode: Array | bool = False,
) -> Array:
    """The mean of each window of (B, C, H, W)."""
    _refuse(ceil_mode)
    kernel, stride = _pair(kernel_sizes), _pair(strides)
    sums = _windows(_padded(x, kernel, stride, (1, 1), pad_type, pad, 0.0), kernel, stride).sum((-2, -1))
    if not exclude_padding_from_average:
        mean: Array = sums / np.float32(kernel[0] * kernel[1])
        return mean
    ones = _padded(np.ones((1, 1, *x.shape[2:]), np.float32), kernel, stride, (1, 1), pad_type, pad, 0.0)
    found: Array = sums / _windows(ones, kernel, stride).sum((-2, -1))
    return found


def max_pool(
    x: Array,
    kernel_sizes: Array,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    ceil_mode: Array | bool = False,
) -> Array:
    """The largest number of each window of (B, C, H, W)."""
    _refuse(ceil_mode)
    kernel, stride = _pair(kernel_sizes), _pair(strides)
    found: Array = _windows(_padded(x, kernel, stride, (1, 1), pad_type, pad, -np.inf), kernel, stride).max((-2, -1))
    return found


def _windows(x: Array, kernel: tuple[int, int], stride: tuple[int, int]) -> Array:
    return sliding_window_view(x, kernel, (2, 3))[:, :, :: stride[0], :: stride[1]]


def _refuse(ceil_mode: Array | bool) -> None:
    if ceil_mode:
        raise ValueError("pooling with ceil_mode is not known here")


def _pair(values: Array | None) -> tuple[int, int]:
    return (1, 1) if values is None else (int(values[0]), int(values[1]))


def _padded(
    x: Array,
    kernel: tuple[int, ...],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pad_type: str,
    pad: Array | None,
    value: float,
) -> Array:
    """x with `value` around it, as `pad_type` says."""
    if pad_type == "custom":
        if pad is None:
            raise ValueError("pad_type `custom` needs `pad`")
        widths = [(int(pad[0]), int(pad[1])), (int(pad[2]), int(pad[3]))]
    elif pad_type in ("same", "same_lower"):
        spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
        widths = []
        for size, span, step in zip(x.shape[2:], spans, stride, strict=True):
            total = max(0, (-(-size // step) - 1) * step + span - size)
            less, more = total // 2, total - total // 2
            widths.append((more, less) if pad_type == "same_lower" else (less, more))
    elif pad_type == "valid":
        return x
    else:
        raise ValueError(f"no pad_type `{pad_type}`")
    return np.pad(x, [(0, 0), (0, 0), *widths], constant_values=value)


OPERATIONS: dict[str, Callable[..., object]] = {
    "avg_pool": avg_pool,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": max_pool,
}
