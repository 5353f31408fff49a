"""Operations that work on each number by itself, and comparisons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray

# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: off by at most 1.5e-7.
ERF_P, ERF_A = 0.3275911, (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def erf(x: Array) -> Array:
    """The error function."""
    t = 1 / (1 + np.float32(ERF_P) * np.abs(x))
    total = np.zeros_like(t)
    for factor in reversed(ERF_A):
        total = (total + np.float32(factor)) * t
    found: Array = np.copysign(1 - total * np.exp(-x * x), x)
    return found


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), written with tanh, which cannot overflow."""
    found: Array = np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))
    return found


def gelu(x: Array, mode: str = "EXACT") -> Array:
    """Hendrycks and Gimpel 2016: exact, or one of its two approximations."""
    if mode == "EXACT":
        share = np.float32(0.5) * (1 + erf(x * np.float32(0.5**0.5)))
    elif mode == "TANH_APPROXIMATION":
        share = np.float32(0.5) * (1 + np.tanh(np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x * x * x)))
    elif mode == "SIGMOID_APPROXIMATION":
        share = sigmoid(np.float32(1.702) * x)
    else:
        raise ValueError(f"gelu has no mode `{mode}`")
    found: Array = x * share
    return found


def softplus(x: Array) -> Array:
    """log(1 + exp(x))"""
    found: Array = np.logaddexp(x, np.float32(0))
    return found


def clip(x: Array, alpha: Array, beta: Array) -> Array:
    """x between alpha and beta."""
    found: Array = np.clip(x, alpha, beta)
    return found


def elu(x: Array, alpha: Array) -> Array:
    """x, or alpha * (exp(x) - 1) below zero."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def prelu(x: Array, alpha: Array) -> Array:
    """x, or alpha * x below zero, with one alpha for each channel: x is (B, C, ...)."""
    return np.where(x > 0, x, alpha.reshape(-1, *[1] * (x.ndim - 2)) * x)


def sigmoid_hard(x: Array, alpha: Array, beta: Array) -> Array:
    """alpha * x + beta between 0 and 1."""
    found: Array = np.clip(alpha * x + beta, 0, 1)
    return found


def select(cond: Array, a: Array, b: Array) -> Array:
    """a where cond holds, else b."""
    return np.where(cond, a, b)


def real_div(x: Array, y: Array) -> Array:
    """x / y; whole numbers round towards minus infinity."""
    found: Array = x // y if np.issubdtype(x.dtype, np.integer) else x / y
    return found


def cast(x: Array, dtype: str) -> Array:
    """x as it is: the evaluator gives every result its declared type, whole numbers rounded towards zero."""
    del dtype
    return x


def quantize(input: Array, scale: Array, output_dtype: str, zero_point: Array | int = 0, axis: int = 0) -> Array:
    """round(input / scale) + zero_point, kept inside the eight bits."""
    limits = np.iinfo(output_dtype)
    scaled = np.rint(input / _along(scale, axis, input.ndim)) + _along(zero_point, axis, input.ndim)
    found: Array = np.clip(scaled, limits.min, limits.max)
    return found


def dequantize(input: Array, scale: Array, zero_point: Array | int = 0, axis: int = 0) -> Array:
    """(input - zero_point) * scale"""
    shifted = input.astype(np.float32) - _along(zero_point, axis, input.ndim)
    found: Array = shifted * _along(scale, axis, input.ndim)
    return found


def inverse(x: Array, epsilon: Array | float = 1e-4) -> Array:
    """1 / (x + epsilon)"""
    found: Array = 1 / (x + np.float32(epsilon))
    return found


def log(x: Array, epsilon: Array | float = 1e-45) -> Array:
    """The natural logarithm of x + epsilon."""
    found: Array = np.log(x + np.float32(epsilon))
    return found


def rsqrt(x: Array, epsilon: Array | float = 1e-12) -> Array:
    """1 / sqrt(x + epsilon)"""
    found: Array = 1 / np.sqrt(x + np.float32(epsilon))
    return found


def _along(values: Array | int, axis: int, rank: int) -> Array:
    """A scalar, or a vector laid along one axis; float32."""
    found = np.asarray(values, np.float32)
    return found if found.ndim == 0 else found.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


OPERATIONS: dict[str, Callable[..., object]] = {
    "abs": lambda x: np.abs(x),
    "add": lambda x, y: x + y,
    "cast": cast,
    "ceil": lambda x: np.ceil(x),
    "clip": clip,
    "cos": lambda x: np.cos(x),
    "dequantize": dequantize,
    "elu": elu,
    "equal": lambda x, y: x == y,
    "erf": erf,
    "exp": lambda x: np.exp(x),
    "floor": lambda x: np.floor(x),
    "floor_div": lambda x, y: x // y,
    "gelu": gelu,
    "greater": lambda x, y: x > y,
    "greater_equal": lambda x, y: x >= y,
    "identity": lambda x: x,
    "inverse": inverse,
    "leaky_relu": lambda x, alpha: np.where(x > 0, x, alpha * x),
    "less": lambda x, y: x < y,
    "less_equal": lambda x, y: x <= y,
    "linear_activation": lambda x, alpha, beta: alpha * x + beta,
    "log": log,
    "logical_and": lambda x, y: x & y,
    "logical_not": lambda x: ~x,
    "logical_or": lambda x, y: x | y,
    "maximum": lambda x, y: np.maximum(x, y),
    "minimum": lambda x, y: np.minimum(x, y),
    "mod": lambda x, y: np.mod(x, y),
    "mul": lambda x, y: x * y,
    "not_equal": lambda x, y: x != y,
    "pow": lambda x, y: np.power(x, y),
    "prelu": prelu,
    "quantize": quantize,
    "real_div": real_div,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "round": lambda x: np.rint(x),
    "rsqrt": rsqrt,
    "select": select,
    "sigmoid": sigmoid,
    "sigmoid_hard": sigmoid_hard,
    "sign": lambda x: np.sign(x),
    "silu": lambda x: x * sigmoid(x),
    "sin": lambda x: np.sin(x),
    "softplus": softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "sqrt": lambda x: np.sqrt(x),
    "square": lambda x: x * x,
    "sub": lambda x, y: x - y,
    "tanh": lambda x: np.tanh(x),
}
