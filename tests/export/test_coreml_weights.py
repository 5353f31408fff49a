"""Weights in fewer bits: what is lost, what is kept exactly, and what goes into the file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_edge.export.coreml.rewrite import activation_scale
from clip_edge.export.coreml.weights import Packed, pack, scaled, snr_db, tabled
from clip_edge.runtime.backends.mil.operations import OPERATIONS

random = np.random.default_rng(0)
DENSE = random.normal(size=(32, 64)).astype(np.float16).astype(np.float32)
FILTERS = random.normal(size=(16, 24, 3, 3)).astype(np.float16).astype(np.float32)


def decompressed(packed: Packed) -> np.ndarray:
    """By the evaluator's own operation, which shares no code with the packing."""
    if packed.scheme == "scale":
        found = OPERATIONS["constexpr_blockwise_shift_scale"](data=packed.codes, scale=packed.parts.astype(np.float32))
    else:
        found = OPERATIONS["constexpr_lut_to_dense"](indices=packed.codes, lut=packed.parts.astype(np.float32))
    return np.asarray(found).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("values", [DENSE, FILTERS], ids=["dense", "filters"])
@pytest.mark.parametrize(
    ("precision", "ios", "least_db"),
    [("int8", 16, 38), ("int4", 18, 17), ("pal6", 18, 29), ("pal4", 18, 20), ("pal4", 16, 18)],
)
def test_a_device_computes_with_what_was_measured(
    values: np.ndarray, precision: str, ios: int, least_db: float
) -> None:
    packed = pack(values, precision, ios)
    assert np.array_equal(decompressed(packed), packed.dense())
    found = snr_db(values, packed.dense())
    assert found is not None
    assert found > least_db
    assert packed.bytes < 2 * values.size * packed.bits / 16 * 1.3


def test_channels_of_zeros_stay_zeros() -> None:
    values = DENSE.copy()
    values[3] = 0
    for precision in ("int8", "int4", "pal6", "pal4"):
        dense = pack(values, precision, 18).dense()
        assert np.isfinite(dense).all()
        assert np.abs(dense[3]).max() < (1e-9 if precision.startswith("int") else 0.1)
    assert not pack(np.zeros_like(DENSE), "int8", 16).dense().any()


def test_a_channel_below_fp16s_smallest_scale_is_kept_as_far_as_fp16_can() -> None:
    values = np.full((2, 64), 6e-8, np.float32)
    values[1] = 1
    assert np.isfinite(scaled(values, 8).dense()).all()
    assert scaled(values, 8).dense()[1] == pytest.approx(1, rel=1e-3)


def test_int4_has_a_scale_for_each_block_of_inputs() -> None:
    values = DENSE.copy()
    values[:, :32] *= 100  # one large block must not take the steps of the other
    packed = scaled(values, 4, 32)
    assert packed.parts.shape == (32, 2)
    small = snr_db(values[:, 32:], packed.dense()[:, 32:])
    assert small is not None
    assert small > 17
    assert scaled(random.normal(size=(8, 27)).astype(np.float32), 4, 32).parts.shape == (
        8,
        1,
    )  # 27 has a divisor of 9 at most
    assert scaled(random.normal(size=(8, 48)).astype(np.float32), 4, 32).parts.shape == (8, 2)  # blocks of 24


def test_a_tensor_of_few_numbers_is_kept_exactly() -> None:
    values = random.choice([-1, 0, 0.5, 2], (32, 40)).astype(np.float32)
    assert snr_db(values, tabled(values, 4).dense()) is None
    mostly = np.zeros((16, 4096), np.float32)
    mostly[0, :100] = np.linspace(-1, 1, 100)
    found = snr_db(mostly, tabled(mostly, 4).dense())
    assert found is not None
    assert found > 20


@given(
    st.integers(1, 4), st.integers(1, 40), st.sampled_from(["int8", "int4", "pal6", "pal4"]), st.integers(0, 2**32 - 1)
)
def test_the_error_is_at_most_half_a_step(rows: int, columns: int, precision: str, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(rows * 16, columns)).astype(np.float16).astype(np.float32)
    packed = pack(values, precision, 18)
    error = np.abs(values - packed.dense()).max(1)
    if packed.scheme == "scale":
        steps = packed.parts.astype(np.float32).max(1)
        assert (error <= 0.52 * steps + 2e-3 * np.abs(values).max(1)).all()  # fp16 rounds the scale and the product
    else:
        tables = packed.parts[:, 0, :, 0].astype(np.float32)
        assert (np.diff(tables) >= 0).all()
        nearest = np.abs(values.reshape(rows, -1, 1) - tables[:, None]).min(-1)
        assert np.allclose(np.abs(values - packed.dense()).reshape(rows, -1), nearest, atol=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "dtype", "scale"),
    [(0.0, 25.5, "uint8", 0.1), (-12.7, 3.0, "int8", 0.1), (-1.0, 127.0, "int8", 1.0), (0.0, 0.0, "uint8", 6.104e-05)],
)
def test_activations_without_negative_values_get_all_eight_bits(
    low: float, high: float, dtype: str, scale: float
) -> None:
    found = activation_scale(low, high)
    assert found[0] == dtype
    assert float(found[1]) == pytest.approx(scale, rel=1e-3)
