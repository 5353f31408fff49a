"""Operations that move numbers without changing them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray

PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


def reshape(x: Array, shape: Array) -> Array:
    """0 keeps the size of the same axis, -1 takes what is left."""
    return x.reshape([x.shape[i] if size == 0 else int(size) for i, size in enumerate(shape)])


def squeeze(x: Array, axes: Array | None = None) -> Array:
    """Without the named axes of size one, or without all of them."""
    return np.squeeze(x, None if axes is None else tuple(int(axis) for axis in axes))


def slice_by_index(
    x: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    """x[begin:end:stride] on every axis; a mask means "from the start", "to the end" or "only one, axis removed"."""
    index: list[slice | int] = []
    for axis in range(x.ndim):
        if squeeze_mask is not None and squeeze_mask[axis]:
            index.append(int(begin[axis]))
            continue
        start = None if begin_mask is not None and begin_mask[axis] else int(begin[axis])
        stop = None if end_mask is not None and end_mask[axis] else int(end[axis])
        index.append(slice(start, stop, 1 if stride is None else int(stride[axis])))
    return x[tuple(index)]


def slice_by_size(x: Array, begin: Array, size: Array) -> Array:
    """`size` numbers from `begin` on; -1 takes all that follow."""
    spans = [
        slice(int(start), None if count == -1 else int(start) + int(count))
        for start, count in zip(begin, size, strict=True)
    ]
    return x[tuple(spans)]


def split(
    x: Array, axis: Array, num_splits: Array | None = None, split_sizes: Array | None = None
) -> tuple[Array, ...]:
    """Equal parts, or parts of the given sizes."""
    if split_sizes is not None:
        return tuple(np.split(x, np.cumsum(split_sizes)[:-1], int(axis)))
    if num_splits is None:
        raise ValueError("split needs `num_splits` or `split_sizes`")
    return tuple(np.split(x, int(num_splits), int(axis)))


def concat(values: tuple[Array, ...], axis: Array, interleave: Array | bool = False) -> Array:
    """Tensors one behind the other, or their slices in turn."""
    if interleave:
        stacked = np.stack(values, int(axis) % values[0].ndim + 1)
        shape = list(values[0].shape)
        shape[int(axis)] *= len(values)
        return stacked.reshape(shape)
    return np.concatenate(values, int(axis))


def gather(
    x: Array, indices: Array, axis: Array | int = 0, batch_dims: Array | int = 0, validate_indices: Array | bool = False
) -> Array:
    """Rows of x by number, counted from the end when negative."""
    del validate_indices  # numpy always checks
    if int(batch_dims):
        raise ValueError("gather with batch_dims is not known here")
    return np.take(x, indices, axis=int(axis))


def gather_along_axis(x: Array, indices: Array, axis: Array | int = 0, validate_indices: Array | bool = False) -> Array:
    """For every place the number that `indices` names along one axis."""
    del validate_indices
    return np.take_along_axis(x, indices, int(axis))


def gather_nd(x: Array, indices: Array, batch_dims: Array | int = 0, validate_indices: Array | bool = False) -> Array:
    """Parts of x by coordinates, which are the last axis of `indices`."""
    del validate_indices
    if int(batch_dims):
        raise ValueError("gather_nd with batch_dims is not known here")
    found: Array = x[tuple(np.moveaxis(indices, -1, 0))]
    return found


def pad(x: Array, pad: Array, mode: str = "constant", constant_val: Array | float = 0.0) -> Array:
    """Numbers around x: `pad` holds before and after of the last axes."""
    widths = [(0, 0)] * (x.ndim - len(pad) // 2) + [(int(a), int(b)) for a, b in zip(pad[::2], pad[1::2], strict=True)]
    if mode == "constant":
        return np.pad(x, widths, constant_values=constant_val)
    return np.pad(x, widths, mode=PAD_MODES[mode])  # type: ignore[call-overload, no-any-return]


def fill(shape: Array, value: Array | float = 0.0) -> Array:
    """One number everywhere."""
    return np.full(tuple(int(size) for size in shape), value)


def band_part(x: Array, lower: Array | int = -1, upper: Array | int = -1) -> Array:
    """Zero outside the diagonals from -lower to +upper of the last two axes; -1 keeps all."""
    row, column = np.indices(x.shape[-2:])
    below = (int(lower) < 0) | (row - column <= int(lower))
    above = (int(upper) < 0) | (column - row <= int(upper))
    return np.where(below & above, x, np.zeros((), x.dtype))


def cumsum(x: Array, axis: Array | int = 0, exclusive: Array | bool = False, reverse: Array | bool = False) -> Array:
    """Running sums along one axis."""
    ordered = np.flip(x, int(axis)) if reverse else x
    sums = np.cumsum(ordered, int(axis), dtype=x.dtype)
    sums = sums - ordered if exclusive else sums
    return np.flip(sums, int(axis)) if reverse else sums


def pixel_shuffle(x: Array, upscale_factor: Array) -> Array:
    """(B, C * r * r, H, W) -> (B, C, H * r, W * r), Shi et al. 2016."""
    r = int(upscale_factor)
    b, c, h, w = x.shape
    parts = x.reshape(b, c // (r * r), r, r, h, w).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(b, c // (r * r), h * r, w * r)


OPERATIONS: dict[str, Callable[..., object]] = {
    "band_part": band_part,
    "concat": concat,
    "cumsum": cumsum,
    "expand_dims": lambda x, axes: np.expand_dims(x, tuple(int(axis) for axis in axes)),
    "fill": fill,
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "pad": pad,
    "pixel_shuffle": pixel_shuffle,
    "range_1d": lambda end, start, step: np.arange(start, end, step),
    "reshape": reshape,
    "reverse": lambda x, axes=None: np.flip(x, None if axes is None else tuple(int(axis) for axis in axes)),
    "shape": lambda x: np.array(x.shape),
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "split": split,
    "squeeze": squeeze,
    "stack": lambda values, axis: np.stack(values, int(axis)),
    "tile": lambda x, reps: np.tile(x, tuple(int(count) for count in reps)),
    "transpose": lambda x, perm: np.transpose(x, tuple(int(axis) for axis in perm)),
}
