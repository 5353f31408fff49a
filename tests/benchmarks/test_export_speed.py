"""The page that sets our quickest graphs beside others says what is true."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from clip_edge.benchmarks.export_speed import Engine, page, take_turns, verdicts


def engine(name: str, median_ms: float, cosine: float = 0.999) -> Engine:
    times = 30 / median_ms
    return Engine("tiny", "image", name, cosine, median_ms * 0.9, median_ms, times, times, [median_ms])


def test_goals_met_and_missed_are_said() -> None:
    rows = [engine("plain", 30), engine("ours int8", 10), engine("openvino", 12), engine("openvino-int8", 9)]
    assert verdicts(rows) == [
        "`ours int8` is 3.00 times as quick as the plain export; the goal of 1.6: met.",
        "Against `openvino`: 1.20 times as quick (1.20); no slower: met.",
        "Against `openvino-int8`: 0.90 times as quick (0.90); no slower: **missed**.",
    ]


def test_a_precision_that_misses_the_cosine_is_not_the_best() -> None:
    rows = [engine("plain", 30), engine("ours fp32", 20, 1.0), engine("ours int4", 5, 0.98)]
    assert verdicts(rows)[0] == "`ours fp32` is 1.50 times as quick as the plain export; the goal of 1.6: **missed**."


def test_the_page_has_a_table_for_each_tower() -> None:
    rows = [engine("plain", 30), engine("ours int8", 10)]
    settings = {"seconds": 15.0, "items": 8}
    told = page({"settings": settings, "environment": {"cpu": "Example"}, "results": [asdict(row) for row in rows]})
    assert "## tiny, image" in told
    assert "| ours int8 | 10.00 ms | 9.00 ms | 3.00 (3.00) | 0.9990 |" in told


def test_engines_take_turns_and_the_first_round_warms_up() -> None:
    asked: list[str] = []

    def query(name: str, index: int) -> float:
        asked.append(f"{name}{index}")
        return 0.001 * index

    samples = take_turns({"a": lambda i: query("a", i), "b": lambda i: query("b", i)}, 0.0)
    assert asked == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert samples["a"] == samples["b"] == pytest.approx([1.0, 2.0])
