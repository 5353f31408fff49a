"""An engine on a simulated GPU: which kernels run a batch, how a large one is split, CUDA graphs, copies, leaks."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_edge.errors import BundleError, UnavailableError
from clip_edge.preprocess import Floats
from clip_edge.runtime import transfers
from clip_edge.runtime.tensorrt.engine import EngineTower, choose, parts
from clip_edge.runtime.tensorrt.plan import PROFILES, Profile

if TYPE_CHECKING:
    from conftest import Gpu

COPIES_S = 0.25e-3 + 0.25e-3  # the simulated clock: a quarter of a millisecond for everything on a stream
MARK_S = 2 * 0.25e-3  # a mark takes as long


def pictures(count: int, seed: int = 0) -> Floats:
    rows: Floats = np.random.default_rng(seed).normal(size=(count, 3, 2, 2)).astype(np.float32)
    return rows


@pytest.mark.parametrize("count", [0, 1, 2, 8, 32, 33, 70])
def test_batches_of_any_size_are_embedded(gpu: Gpu, count: int) -> None:
    tower = EngineTower(gpu.library, gpu.cuda, gpu.graph, b"engine")
    for seed in range(3):
        rows = pictures(count, seed)
        np.testing.assert_allclose(tower(rows), gpu.expected(rows), rtol=1e-5, atol=1e-6)


def test_one_frame_is_a_cuda_graph_from_its_second_call_on(gpu: Gpu) -> None:
    tower = EngineTower(gpu.library, gpu.cuda, gpu.graph, b"engine")
    for count, launches in [(1, 0), (1, 1), (8, 1), (1, 2), (33, 3), (2, 3)]:
        rows = pictures(count, seed=launches)
        np.testing.assert_allclose(tower(rows), gpu.expected(rows), rtol=1e-5, atol=1e-6)
        assert gpu.number("launches").value == launches


def test_an_engine_that_cannot_be_captured_runs_all_the_same(gpu: Gpu) -> None:
    gpu.number("refuse_capture").value = 1
    tower = EngineTower(gpu.library, gpu.cuda, gpu.graph, b"engine")
    for seed in range(3):
        rows = pictures(1, seed)
        np.testing.assert_allclose(tower(rows), gpu.expected(rows), rtol=1e-5, atol=1e-6)
    assert gpu.number("launches").value == 0
    assert gpu.library.last_error() == "no reason given"  # what was tried in vain explains nothing later


def test_threads_take_turns(gpu: Gpu) -> None:
    tower = EngineTower(gpu.library, gpu.cuda, gpu.graph, b"engine")
    with ThreadPoolExecutor(4) as pool:
        batches = [pictures(1 + seed % 3, seed) for seed in range(40)]
        for rows, found in zip(batches, pool.map(tower, batches), strict=True):
            np.testing.assert_allclose(found, gpu.expected(rows), rtol=1e-5, atol=1e-6)


def test_the_copies_are_told_apart_from_the_layers(gpu: Gpu) -> None:
    tower = EngineTower(gpu.library, gpu.cuda, gpu.graph, b"engine")
    transfers.take()
    tower(pictures(8))
    assert transfers.take() == pytest.approx(COPIES_S + MARK_S)
    tower(pictures(64))  # two parts
    assert transfers.take() == pytest.approx(2 * (COPIES_S + MARK_S))
    assert transfers.take() == 0


def test_everything_is_given_back(gpu: Gpu) -> None:
    tower = EngineTower(gpu.library, gpu.cuda, gpu.graph, b"engine")
    tower(pictures(1))
    tower(pictures(1))
    assert gpu.number("live").value > 0
    del tower
    gc.collect()
    assert gpu.number("live").value == 0


def test_a_full_gpu_is_said_in_words(gpu: Gpu) -> None:
    gpu.number("memory_left").value = 100
    with pytest.raises(UnavailableError, match="cuMemAlloc_v2 says `out of memory`") as caught:
        EngineTower(gpu.library, gpu.cuda, gpu.graph, b"engine")
    assert caught.value.hint == "close other programs on the GPU, or use smaller batches"
    del caught
    gc.collect()
    assert gpu.number("live").value == 0


def test_an_engine_of_another_library_is_refused(gpu: Gpu) -> None:
    with pytest.raises(UnavailableError, match=r"TensorRT 11\.4 cannot load the engine of .*: magicTag mismatch"):
        EngineTower(gpu.library, gpu.cuda, gpu.graph, b"nonsense")


def test_the_gpu_is_named(gpu: Gpu) -> None:
    device = gpu.cuda.device()
    assert (device.name, device.capability, device.total_bytes) == ("Simulated GPU 0", "sm87", 1 << 30)


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
