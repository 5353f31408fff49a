"""A small fixed load between the queries: what it takes says how fast the machine is at that moment.

Two measurements of the same code on two days differ by what else the machine, its host and its clocks do. The same
matrices and bytes, worked through by numpy and zlib alone, feel most of that and nothing of what is measured: a row
over its reference load can be compared with one of another day (ours, after the paired designs of statistics).
"""

from __future__ import annotations

import time
import zlib

import numpy as np

# Each half takes about 0.17 ms on a current server core, long enough for the clock and short beside a query.
PRODUCTS, WIDTH = 48, 64  # below the size from which BLAS libraries use several threads
TEXT_BYTES, TEXTS = 10_000, 4
PASSES = 3  # in one go: one may be interrupted
EVERY_S = 0.05  # 1 ms in 50: the machine changes its pace within a tenth of a second
SEED = 0


class ReferenceLoad:
    """Products of small matrices, as in a tower, and integer work with tables, as in a decoder; on one thread."""

    def __init__(self) -> None:
        random = np.random.default_rng(SEED)
        shape = (PRODUCTS, WIDTH, WIDTH)
        self._left, self._right = (random.standard_normal(shape, dtype=np.float32) for _ in range(2))
        self._out = np.empty_like(self._left)
        words = [random.bytes(6) for _ in range(64)]
        picked = b"".join(words[i] for i in random.integers(0, len(words), TEXT_BYTES // 6))
        self._texts = [picked[i::TEXTS] for i in range(TEXTS)]

    def seconds(self) -> list[float]:
        """How long each of a few passes took."""
        taken_s = []
        for _ in range(PASSES):
            started_s = time.perf_counter()
            np.matmul(self._left, self._right, out=self._out)
            for text in self._texts:
                zlib.compress(text, 1)
            taken_s.append(time.perf_counter() - started_s)
        return taken_s


def identity() -> str:
    """Which load it is: rows are only compared over the same one."""
    load = f"{PRODUCTS} products of {WIDTH} × {WIDTH}, {TEXTS} × deflate of {TEXT_BYTES // TEXTS} bytes"
    return f"{load}; numpy {np.__version__}, zlib {zlib.ZLIB_RUNTIME_VERSION}"
