"""Matrix products, normalisations, attention and reductions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def matmul(x: Array, y: Array, transpose_x: Array | bool = False, transpose_y: Array | bool = False) -> Array:
    """The product of the last two axes, the others broadcast."""
    left, right = np.swapaxes(x, -1, -2) if transpose_x else x, np.swapaxes(y, -1, -2) if transpose_y else y
    found: Array = left @ right
    return found


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """(..., I), (O, I) -> (..., O)"""
    found: Array = x @ weight.T
    return found if bias is None else found + bias


def einsum(values: tuple[Array, ...], equation: str) -> Array:
    """A product in Einstein's notation."""
    found: Array = np.einsum(equation, *values, optimize=True)
    return found


def softmax(x: Array, axis: Array | int = -1) -> Array:
    """exp(x) as shares of one axis."""
    shares = np.exp(x - x.max(int(axis), keepdims=True))
    found: Array = shares / shares.sum(int(axis), keepdims=True)
    return found


def scaled_dot_product_attention(query: Array, key: Array, value: Array, attn_mask: Array | None = None) -> Array:
    """softmax(query @ key^T / sqrt(E) + mask) @ value, Vaswani et al. 2017 eq. 1: (..., L, E), (..., S, E) x 2."""
    logits = query @ np.swapaxes(key, -1, -2) / np.float32(np.sqrt(query.shape[-1]))
    if attn_mask is not None and attn_mask.dtype == np.bool_:
        logits = np.where(attn_mask, logits, np.float32(-np.inf))
    elif attn_mask is not None:
        logits = logits + attn_mask
    found: Array = softmax(logits) @ value
    return found


def batch_norm(
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Array | float = 1e-5,
) -> Array:
    """(B, C, ...) with the statistics of training."""
    shape = (-1, *[1] * (x.ndim - 2))
    factor = 1 / np.sqrt(variance + np.float32(epsilon))
    factor = factor if gamma is None else factor * gamma
    shift = -mean * factor if beta is None else beta - mean * factor
    found: Array = x * factor.reshape(shape) + shift.reshape(shape)
    return found


def layer_norm(
    x: Array,
    axes: Array | None = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Array | float = 1e-5,
) -> Array:
    """Mean 0 and variance 1 over `axes`, then scaled and shifted."""
    over = tuple(range(x.ndim)) if axes is None else tuple(int(axis) % x.ndim for axis in axes)
    centred = x - x.mean(over, keepdims=True)
    found: Array = centred / np.sqrt((centred * centred).mean(over, keepdims=True) + np.float32(epsilon))
    shape = [x.shape[axis] if axis in over else 1 for axis in range(x.ndim)]
    found = found if gamma is None else found * gamma.reshape(shape)
    return found if beta is None else found + beta.reshape(shape)


def instance_norm(
    x: Array, gamma: Array | None = None, beta: Array | None = None, epsilon: Array | float = 1e-5
) -> Array:
    """(B, C, ...): mean 0 and variance 1 over the places of each channel."""
    shape = (-1, *[1] * (x.ndim - 2))
    found = layer_norm(x, np.arange(2, x.ndim), epsilon=epsilon)
    found = found if gamma is None else found * gamma.reshape(shape)
    return found if beta is None else found + beta.reshape(shape)


def l2_norm(x: Array, epsilon: Array | float = 1e-6) -> Array:
    """x / sqrt(sum of squares over the last three axes + epsilon)"""
    sums = (x * x).sum(tuple(range(x.ndim))[-3:], keepdims=True)
    found: Array = x / np.sqrt(sums + np.float32(epsilon))
    return found


def _reduction(reduce: Callable[[Array, tuple[int, ...] | None, bool], Array]) -> Callable[..., Array]:
    """A reduction over `axes`, or over everything."""

    def reduced(x: Array, axes: Array | None = None, keep_dims: Array | bool = False) -> Array:
        return reduce(x, None if axes is None else tuple(int(axis) for axis in axes), bool(keep_dims))

    return reduced


def _argument(find: Callable[..., Array]) -> Callable[..., Array]:
    """The place of the largest or smallest number, the first of equal ones."""

    def found(x: Array, axis: Array | int = -1, keep_dims: Array | bool = False, output_dtype: str = "int32") -> Array:
        del output_dtype  # the evaluator gives results their declared type
        return find(x, int(axis), keepdims=bool(keep_dims))

    return found


def _log_sum_exp(x: Array, axes: tuple[int, ...] | None, keep: bool) -> Array:
    top = x.max(axes, keepdims=True)
    sums = np.log(np.exp(x - top).sum(axes, keepdims=keep))
    found: Array = sums + (top if keep else np.squeeze(top, axes))
    return found


OPERATIONS: dict[str, Callable[..., object]] = {
    "batch_norm": batch_norm,
    "einsum": einsum,
    "instance_norm": instance_norm,
    "l2_norm": l2_norm,
    "layer_norm": layer_norm,
    "linear": linear,
    "matmul": matmul,
    "reduce_argmax": _argument(np.argmax),
    "reduce_argmin": _argument(np.argmin),
    "reduce_l1_norm": _reduction(lambda x, axes, keep: np.abs(x).sum(axes, keepdims=keep)),
    "reduce_l2_norm": _reduction(lambda x, axes, keep: np.sqrt((x * x).sum(axes, keepdims=keep))),
    "reduce_log_sum_exp": _reduction(_log_sum_exp),
    "reduce_max": _reduction(lambda x, axes, keep: x.max(axes, keepdims=keep)),
    "reduce_mean": _reduction(lambda x, axes, keep: x.mean(axes, keepdims=keep)),
    "reduce_min": _reduction(lambda x, axes, keep: x.min(axes, keepdims=keep)),
    "reduce_prod": _reduction(lambda x, axes, keep: x.prod(axes, keepdims=keep)),
    "reduce_sum": _reduction(lambda x, axes, keep: x.sum(axes, keepdims=keep)),
    "reduce_sum_square": _reduction(lambda x, axes, keep: (x * x).sum(axes, keepdims=keep)),
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "softmax": softmax,
}
