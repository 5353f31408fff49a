"""The front: nothing on it is beaten in latency and accuracy at once, and everything off it is."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_edge.benchmarks.pareto import digits, dots_of, figures, scatter
from clip_edge.benchmarks.report import Accuracy, Report, Row

from .conftest import make_row

COSINES = st.sampled_from([0.5, 0.97, 0.99, 0.995, 0.9999, 0.99999, 1.0])
FACTORS = st.floats(0.01, 100.0)


@given(st.lists(st.tuples(FACTORS, COSINES, st.sampled_from(["one", "other"])), min_size=1, max_size=12))
def test_the_front_is_what_nothing_of_its_model_beats(given_rows: list[tuple[float, float, str]]) -> None:
    rows = [
        make_row(0, factor, accuracy=Accuracy(cosine, 0.9, True), bundle=name) for factor, cosine, name in given_rows
    ]
    dots = dots_of(rows)
    assert [dot.number for dot in dots] == list(range(1, len(rows) + 1))
    for dot in dots:
        beaten = any(
            other.p50_s <= dot.p50_s and digits(other.cosine) >= digits(dot.cosine) and other.bundle == dot.bundle
            for other in dots[: dot.number - 1]
        )
        assert dot.front != beaten
    drawn = scatter(dots)
    assert "nan" not in drawn
    assert drawn.count("<polyline") == len({dot.bundle for dot in dots})


@pytest.mark.parametrize(("cosine", "nines"), [(0.0, 0.0), (0.9, 1.0), (0.999, 3.0), (1.0, 7.0), (1.0000001, 7.0)])
def test_nines(cosine: float, nines: float) -> None:
    assert digits(cosine) == nines


def test_each_tower_and_number_of_threads_is_a_figure(make_report: Callable[..., Report]) -> None:
    rows: list[Row] = [
        make_row(i, tower=tower, threads=threads, precision=precision)
        for i, precision in enumerate(("fp32", "fp16", "int8"))
        for tower, threads in (("image", 1), ("image", 2), ("text", 1))
    ]
    found = figures(make_report(*rows, make_row(9, tower="text", threads=2), make_row(9, batch=8)))
    assert [figure.title for figure in found] == [
        "image tower, 1 thread",
        "image tower, 2 threads",
        "text tower, 1 thread",
    ]
    numbers = re.findall(r'class="point c(\d)" cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', found[0].svg)
    assert len(numbers) == 3
    assert all(0 <= float(x) <= 440 and 0 <= float(y) <= 240 for _, x, y, _ in numbers)
