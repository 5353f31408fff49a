"""Compressed weights back to numbers: what a phone does when it loads the package.

Two generations: iOS 16 packs bits into bytes and names the shape, iOS 18 has types of fewer than eight bits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clip_edge.runtime.backends.mil.program import unpack_bits

Array = np.ndarray


def affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: Array) -> Array:
    """scale * (data - zero_point), one pair for all or one for each place of an axis."""
    rank = quantized_data.ndim
    shape = [-1 if i == int(axis) % rank else 1 for i in range(rank)]
    scale, zero_point = (value.reshape(shape) if value.ndim else value for value in (scale, zero_point))
    found: Array = scale * (quantized_data.astype(np.float32) - zero_point.astype(np.float32))
    return found


def blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """scale * (data - offset), one pair for each block; the ratio of the shapes is the size of a block."""
    numbers = data.astype(np.float32)
    if offset is not None:
        numbers = numbers - _spread(offset.astype(np.float32), data.shape)
    found: Array = _spread(scale, data.shape) * numbers
    return found


def lut_to_dense(indices: Array, lut: Array, shape: Array | None = None, vector_axis: Array | None = None) -> Array:
    """Each index replaced by what it names: one table (iOS 16, indices packed), or one for each block (iOS 18)."""
    if shape is not None:
        sizes = tuple(int(size) for size in shape)
        bits = len(lut).bit_length() - 1
        found: Array = lut[unpack_bits(indices, bits, int(np.prod(sizes)))].reshape(sizes)
        return found
    if lut.shape[-1] != 1:
        raise ValueError(f"tables of vectors are not known here (vector_axis {vector_axis})")
    tables = lut[..., 0]  # (blocks..., entries)
    flat = tables.reshape(-1, tables.shape[-1])
    block = _spread(np.arange(len(flat)).reshape(tables.shape[:-1]), indices.shape)
    picked: Array = flat[block, indices]
    return picked


def sparse_to_dense(nonzero_data: Array, mask: Array, shape: Array | None = None) -> Array:
    """Numbers at the places that a mask of bits marks, zero elsewhere."""
    sizes = mask.shape if shape is None else tuple(int(size) for size in shape)
    marked = mask.ravel() if shape is None else np.unpackbits(mask, bitorder="little", count=int(np.prod(sizes)))
    dense = np.zeros(marked.shape, nonzero_data.dtype)
    dense[marked.astype(bool)] = nonzero_data
    return dense.reshape(sizes)


def _spread(values: Array, shape: tuple[int, ...]) -> Array:
    """One value for each block -> one for each number."""
    for axis, (size, blocks) in enumerate(zip(shape, values.shape, strict=True)):
        if size != blocks:
            values = np.repeat(values, size // blocks, axis)
    return values


OPERATIONS: dict[str, Callable[..., object]] = {
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_cast": lambda source_val, output_dtype: source_val,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_sparse_to_dense": sparse_to_dense,
}
