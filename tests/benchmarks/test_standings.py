"""Ours beside other tools: who is compared with whom, and what is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clip_edge.benchmarks.report import Accuracy, Row
from clip_edge.benchmarks.standings import standings
from clip_edge.benchmarks.tables import standings_table

WRONG = Accuracy(0.97, 0.999, False)


@pytest.mark.parametrize(("pace", "verdict"), [(0.8, "behind"), (1.0, "level"), (1.3, "first")])
def test_the_verdict_is_of_the_test_that_compares_reports(
    make_row: Callable[..., Row], pace: float, verdict: str
) -> None:
    (found,) = standings([make_row(1), make_row(2, pace, backend="peer:openvino")])
    assert found.verdict == verdict
    assert found.change.ratio == pytest.approx(1 / pace, rel=0.02)


def test_the_fastest_of_each_side_that_is_right_counts(make_row: Callable[..., Row]) -> None:
    right = make_row(2, 0.9, precision="int8")
    peer = make_row(4, 0.95, backend="peer:openvino", accuracy=WRONG)  # of a few hard rows: it counts
    rows = [
        make_row(1),
        right,
        make_row(3, 0.5, precision="fp16", backend="openvino-bf16", accuracy=WRONG),
        make_row(3, 0.4, precision="fp16", backend="native", accuracy=None),
        peer,
        make_row(5, 1.5, backend="peer:mnn"),
    ]
    (found,) = standings(rows)
    assert (found.ours, found.peer) == (right, peer)


def test_only_rows_that_were_side_by_side_meet(make_row: Callable[..., Row]) -> None:
    peer = make_row(1, backend="peer:mnn")
    for other in ({"batch": 8}, {"threads": 2}, {"tower": "text"}, {"bundle": "other"}, {"device": "phone"}):
        assert standings([make_row(2, **other), peer]) == []
    assert standings([make_row(1)]) == standings([peer]) == []


def test_the_table_names_both_and_has_no_rows_without_peers(make_row: Callable[..., Row]) -> None:
    columns, (cells,) = standings_table([make_row(1, precision="int8"), make_row(2, 1.5, backend="peer:mnn")])
    assert len(columns) == len(cells)
    assert cells[:6] == ["tiny", "image", "1", "1", "int8 onnxruntime", "first"]
    assert cells[7] == "fp32 mnn"
    assert standings_table([make_row(1)])[1] == []
