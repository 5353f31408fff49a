"""Weights in fewer bits: which layers have them, and what each scheme makes of a tensor. numpy only.

Integers are symmetric, so a zero stays a zero, and a channel of zeros has a scale of one (coremltools itself divides by
zero there). Scales and tables are fp16, and codes are chosen for the rounded scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

LEAST = 2048  # numbers: below, a scale and its bookkeeping save nothing
BLOCK = 32  # inputs that share a scale in int4
GROUP = 16  # output channels that share a table
ROUNDS = 30  # of Lloyd's algorithm
BINS = 512  # of the histogram that it starts from


@dataclass(frozen=True)
class Weight:
    """A constant that a convolution, a product or a lookup reads. The first axis is the output channel (or the row)."""

    name: str
    op: str
    values: Array
    depthwise: bool


@dataclass(frozen=True)
class Packed:
    """A compressed tensor: `codes` in `bits` bits, and the scales or tables that give them a meaning."""

    scheme: str  # "scale" or "table"
    bits: int
    codes: Array  # int8 for scales, uint8 for tables; shape of the tensor
    parts: Array  # fp16: scales (same rank, one for each block), or tables (same rank + entries + 1)

    @property
    def bytes(self) -> int:
        """What it takes in the file."""
        return int(-(-self.codes.size * self.bits // 8) + self.parts.nbytes)

    def dense(self) -> Array:
        """The numbers that a device computes with, float32 that fits fp16."""
        if self.scheme == "scale":
            numbers = spread(self.parts, self.codes.shape).astype(np.float32) * self.codes
        else:
            numbers = _looked_up(self.codes, self.parts[..., 0])
        found: Array = numbers.astype(np.float16).astype(np.float32)
        return found


def snr_db(values: Array, packed: Array) -> float | None:
    """The power of the weights over the power of their error, in decibels; None when there is no error."""
    noise = float(((values - packed) ** 2).sum())
    power = float((values**2).sum())
    return None if noise == 0 or power == 0 else round(10 * math.log10(power / noise), 3)


def scaled(values: Array, bits: int, block: int | None = None) -> Packed:
    """Symmetric integers with one scale for each output channel, or for each `block` inputs of it."""
    top = (1 << (bits - 1)) - 1
    blocks = [len(values), *[1] * (values.ndim - 1)]
    if block is not None and values.ndim > 1:
        blocks[1] = values.shape[1] // _block(values.shape[1], block)
    peaks = _peaks(np.abs(values), blocks)
    scales = (peaks / top).astype(np.float16)
    scales = np.where(scales == 0, np.float16(1) if top else scales, scales)  # nothing there, or below fp16's smallest
    codes = np.rint(values / spread(scales, values.shape).astype(np.float32))
    return Packed("scale", bits, np.clip(codes, -top, top).astype(np.int8), scales)


def tabled(values: Array, bits: int, group: int | None = GROUP) -> Packed:
    """Indices into tables of 2^bits numbers: one table for each `group` output channels, or one for all."""
    count = len(values) // group if group is not None and len(values) % group == 0 else 1
    rows = values.reshape(count, -1)
    tables = np.stack([_cluster(row, 1 << bits) for row in rows]).astype(np.float16)
    codes = np.stack([_nearest(row, table.astype(np.float32)) for row, table in zip(rows, tables, strict=True)])
    shape = (count, *[1] * (values.ndim - 1), 1 << bits, 1)
    return Packed("table", bits, codes.reshape(values.shape).astype(np.uint8), tables.reshape(shape))


def pack(values: Array, precision: str, ios: int) -> Packed:
    """A tensor in the given precision, in the finest form that this iOS can read."""
    makers: dict[str, Callable[[], Packed]] = {
        "int8": lambda: scaled(values, 8),
        "int4": lambda: scaled(values, 4, BLOCK),
        "pal6": lambda: tabled(values, 6, GROUP if ios >= 18 else None),
        "pal4": lambda: tabled(values, 4, GROUP if ios >= 18 else None),
    }
    return makers[precision]()


def spread(parts: Array, shape: tuple[int, ...]) -> Array:
    """One value for each block -> one for each number."""
    for axis, (size, blocks) in enumerate(zip(shape, parts.shape, strict=True)):
        if blocks not in (1, size):
            parts = np.repeat(parts, size // blocks, axis)
    return parts


def _block(inputs: int, most: int) -> int:
    """The largest divisor of `inputs` up to `most`; all of them when there is none worth a scale."""
    best = max(size for size in range(1, most + 1) if inputs % size == 0)
    return best if best >= 8 else inputs


def _peaks(values: Array, blocks: list[int]) -> Array:
    """The largest value of each block."""
    shape = [part for size, count in zip(values.shape, blocks, strict=True) for part in (count, size // count)]
    found: Array = values.reshape(shape).max(tuple(range(1, 2 * values.ndim, 2)))
    return found


def _cluster(values: Array, count: int) -> Array:
    """`count` numbers that stand for `values` with little squared error: Lloyd 1982 on sorted numbers.

    It starts from as many numbers per place as the cube root of the density asks (Panter and Dite 1951, eq. 11), near
    the best already. Distinct numbers that are no more than `count` are kept as they are.
    """
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= count:
        return np.pad(distinct, (0, count - len(distinct)), mode="edge").astype(np.float32)
    mass = np.concatenate([[0.0], np.cumsum(counts)])
    total = np.concatenate([[0.0], np.cumsum(counts * distinct.astype(np.float64))])
    density, borders = np.histogram(values, BINS)
    reached = np.concatenate([[0.0], np.cumsum(np.cbrt(density))])
    centres = np.interp((np.arange(count) + 0.5) / count * reached[-1], reached, borders)
    for _ in range(ROUNDS):
        edges = np.searchsorted(distinct, (centres[1:] + centres[:-1]) / 2)
        edges = np.concatenate([[0], edges, [len(distinct)]])
        weight, sums = np.diff(mass[edges]), np.diff(total[edges])
        centres = np.where(weight > 0, sums / np.maximum(weight, 1), centres)
    found: Array = centres.astype(np.float32)
    return found


def _nearest(values: Array, table: Array) -> Array:
    """The index of the nearest entry of a table in rising order."""
    return np.searchsorted((table[1:] + table[:-1]) / 2, values.ravel(), side="right")


def _looked_up(codes: Array, tables: Array) -> Array:
    """Codes (O, ...), tables (groups, 1, ..., entries) -> the numbers."""
    flat = tables.reshape(-1, tables.shape[-1]).astype(np.float32)
    rows = codes.reshape(len(flat), -1)
    return np.take_along_axis(flat, rows.astype(np.int64), 1).reshape(codes.shape)
