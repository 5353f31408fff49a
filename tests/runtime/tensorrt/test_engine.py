"""Which kernels run a batch, and how a large one is split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_edge.errors import BundleError
from clip_edge.runtime.tensorrt.engine import choose, parts
from clip_edge.runtime.tensorrt.plan import PROFILES, Profile


@pytest.mark.parametrize(("rows", "index"), [(1, 0), (2, 1), (8, 1), (32, 1)])
def test_one_frame_and_an_album_have_kernels_of_their_own(rows: int, index: int) -> None:
    assert choose(rows, PROFILES) == index


def test_a_batch_that_no_profile_allows_is_refused() -> None:
    with pytest.raises(BundleError, match="no profile of the engine allows a batch of 33"):
        choose(33, PROFILES)


@given(st.integers(0, 300))
def test_parts_cover_every_row_once_and_fit(rows: int) -> None:
    ranges = parts(rows, PROFILES)
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(rows))
    for start, stop in ranges:
        chosen = PROFILES[choose(stop - start, PROFILES)]
        assert chosen.min <= stop - start <= chosen.max


@pytest.mark.parametrize("sizes", [(0, 1, 1), (2, 1, 3), (1, 5, 4), (1, 1, 5000)])
def test_profiles_are_in_order(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="1 ≤ min ≤ opt ≤ max ≤ 1024 expected"):
        Profile(*sizes)
