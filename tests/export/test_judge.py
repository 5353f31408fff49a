"""Which layers keep the higher precision: the ones that cost, found without judging every layer alone."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clip_edge.console import SILENT
from clip_edge.errors import ExportError
from clip_edge.export.quantize.judge import FOCUS, MARGIN, RUNS, Draft, Judge, choose_kept
from clip_edge.export.rows import Rows
from clip_edge.numerics import Floats

WIDTH = 8
NAMES = [f"layer{index:02d}" for index in range(3 * RUNS)]
BAD = {"layer07", "layer08", "layer40"}


class Sum:
    """A graph that adds up the products of many layers; layers in the lower precision are off by a known noise."""

    def __init__(self, noise: dict[str, float]) -> None:
        random = np.random.default_rng(0)
        self.weights = {name: random.normal(size=(WIDTH, WIDTH)).astype(np.float32) for name in NAMES}
        self.errors = {
            name: (noise.get(name, 1e-3) * random.normal(size=(WIDTH, WIDTH))).astype(np.float32) for name in NAMES
        }
        self.built = 0

    def build(self, chosen: Collection[str]) -> onnx.ModelProto:
        """The graph with `chosen` layers in the lower precision."""
        self.built += 1
        weights = {name: self.weights[name] + self.errors[name] * (name in chosen) for name in NAMES}
        nodes = [helper.make_node("MatMul", ["x", name], [f"{name}.y"]) for name in NAMES]
        nodes.append(helper.make_node("Sum", [f"{name}.y" for name in NAMES], ["y"]))
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in "xy"]
        constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
        graph = helper.make_graph(nodes, "sum", ends[:1], ends[1:], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def judge_of(model: Sum) -> Judge:
    rows = np.random.default_rng(1).normal(size=(40, WIDTH)).astype(np.float32)
    return Judge(model.build([]), Rows({"x": rows}), 0.99)


def test_the_worst_runs_are_found_and_the_rest_is_given_back() -> None:
    model = Sum(dict.fromkeys(BAD, 4.0))
    judge = judge_of(model)
    model.built = 0
    kept = choose_kept(NAMES, model.build, judge, SILENT)
    assert model.built < len(NAMES)
    assert set(kept) == BAD
    assert all(cost > 0.01 for cost in kept.values())
    assert judge.cosines(model.build([name for name in NAMES if name not in kept])).min() >= 0.99 + MARGIN


class Shares:
    """Rows that leave as they came, but for a share of their reverse that each lowered layer adds to some of them."""

    def __init__(self, wrong: dict[str, dict[int, float]], count: int = 40) -> None:
        self.wrong = wrong
        self.rows = Rows({"x": np.eye(1, WIDTH, dtype=np.float32).repeat(count, axis=0)})
        self.rows.inputs["x"][:, 1] = np.arange(count)  # which row it is

    def build(self, chosen: Collection[str]) -> Draft:
        """What the graph computes with `chosen` layers in the lower precision."""

        def run(rows: Rows) -> list[Floats]:
            found = rows.inputs["x"].copy()
            for row in found:
                row[2] = row[1] * sum(self.wrong[name].get(int(row[1]), 0.0) for name in chosen)
            return [found]

        return run

    def judge(self) -> Judge:
        """Cosines to the rows as they came."""
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in "xy"]
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", ends[:1], ends[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        return Judge(model, self.rows, 0.99)


@pytest.mark.parametrize("large", ["first", "second"])
def test_of_two_layers_the_one_with_fewer_weights_is_kept(large: str) -> None:
    model = Shares({"first": {30: 0.1}, "second": {30: 0.1}})  # one of them may be lowered
    sizes = {name: 1000 if name == large else 10 for name in model.wrong}
    assert set(choose_kept(list(sizes), model.build, model.judge(), SILENT, sizes=sizes)) == {*sizes} - {large}


def test_rows_that_were_not_among_the_worst_at_first_are_looked_at_too() -> None:
    often = dict.fromkeys(range(10, 10 + 2 * FOCUS), 0.5)
    model = Shares({"often": often, "rarely": {36: 0.3, 37: 0.3}, "never": {}})
    judge = model.judge()
    assert set(choose_kept(list(model.wrong), model.build, judge, SILENT)) == {"often", "rarely"}
    assert judge.scores(model.build(["rarely"])).min() < judge.goal


def test_nothing_is_kept_where_everything_holds() -> None:
    model = Sum({})
    assert choose_kept(NAMES, model.build, judge_of(model), SILENT) == {}


def test_a_graph_that_fails_with_every_layer_kept_is_refused() -> None:
    model, other = Sum({}), Sum({})
    other.weights = {name: -value for name, value in model.weights.items()}
    with pytest.raises(ExportError, match="no layer can be quantised within the tolerance"):
        choose_kept(NAMES[:30], other.build, judge_of(model), SILENT)


def decoder(logits: np.ndarray) -> onnx.ModelProto:
    """Three masks of 4 × 4 that are the same for every row, up to a factor of one."""
    nodes = [helper.make_node("Mul", ["x", "logits"], ["mask_logits"])]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 1, 1]),
        helper.make_tensor_value_info("mask_logits", TensorProto.FLOAT, ["n", 3, 4, 4]),
    ]
    graph = helper.make_graph(nodes, "decoder", ends[:1], ends[1:], [numpy_helper.from_array(logits, "logits")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_masks_are_worth_what_their_overlap_is() -> None:
    logits = np.full((1, 3, 4, 4), 5.0, np.float32)
    logits[0, 1, 0, 0] = 1e-3
    judge = Judge(decoder(logits), Rows({"x": np.ones((2, 1, 1, 1), np.float32)}), 0.99)
    assert judge.scores(decoder(logits)).tolist() == pytest.approx([1.0, 1.0])
    logits = logits.copy()
    logits[0, 1, 0, 0] = -1e-3  # the cosine is the same, and the mask has 15 of 16 pixels
    assert judge.cosines(decoder(logits)).min() > 0.999999
    assert judge.scores(decoder(logits)).tolist() == pytest.approx([15 / 16] * 2)  # a tolerance of 0.01 for 0.01 of IoU
    assert judge.why_kept(0.0625) == "kept: alone it costs 0.0625 of cosine or mask IoU"
    assert judge_of(Sum({})).why_kept(0.0625) == "kept: alone it costs 0.0625 of cosine"


def test_the_margin_is_a_part_of_what_the_tolerance_allows() -> None:
    rows = Rows({"x": np.ones((2, 1, 1, 1), np.float32)})
    goals = [Judge(decoder(np.ones((1, 3, 4, 4), np.float32)), rows, tolerance).goal for tolerance in (0.97, 0.999)]
    assert goals == pytest.approx([0.97 + MARGIN, 0.99925])
