"""What rows say about themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from clip_edge.benchmarks.report import Row
from clip_edge.benchmarks.rows import row_warnings, speed_gate


def test_a_precision_that_is_not_quicker_is_told(make_row: Callable[..., Row]) -> None:
    whole = make_row(1)
    quick = make_row(2, 0.5, precision="int8")
    even = make_row(3, precision="int4", file_bytes=4_000_000)
    slow = make_row(4, 1.4, precision="fp16", file_bytes=8_500_000)
    told = speed_gate([whole, quick, even, slow])
    assert len(told) == 2
    assert told[0].startswith("tiny · image · int4 · onnxruntime · batch 1 · threads 1 · single-stream is not quicker")
    assert told[1] == (
        "tiny · image · fp16 · onnxruntime · batch 1 · threads 1 · single-stream is not quicker than fp32 here: "
        f"{slow.latency_s.p50 / whole.latency_s.p50:.2f} of its time, in 8.5 MB instead of 17.0 MB"
    )
    assert told[1] in row_warnings([whole, slow])


def test_a_precision_that_may_be_quicker_is_told(make_row: Callable[..., Row]) -> None:
    whole = make_row(1)
    few = dataclasses.replace(make_row(2, 0.5, precision="int8"), samples_s=(0.0021, 0.0019, 0.0042))
    (told,) = speed_gate([whole, few])
    assert told.startswith("the samples do not tell whether tiny · image · int8 ")


def test_only_rows_that_differ_in_precision_alone_are_compared(make_row: Callable[..., Row]) -> None:
    slow = make_row(1, 2.0, precision="int8")
    for other in ({"batch": 8}, {"threads": 2}, {"tower": "text"}, {"bundle": "other"}, {"backend": "native"}):
        assert speed_gate([slow, make_row(2, **other)]) == []
    cold = {"scenario": "cold-start"}
    assert speed_gate([make_row(1, 2.0, precision="int8", **cold), make_row(2, **cold)]) == []
