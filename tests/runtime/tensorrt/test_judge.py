"""The engine inspector's answer is read as TensorRT writes it, and a silent fall back is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_edge.runtime.tensorrt.judge import found_precisions, judge


def layer(names: list[str], **fields: Any) -> dict[str, Any]:
    """A layer as the inspector describes it: the ONNX nodes that went into it stand in `Metadata`."""
    return {
        "Name": "__myl_" + "_".join(names),
        "LayerType": "gemm",
        "Metadata": "\x1e".join(f"[ONNX Layer: {name}]" for name in names),
        **fields,
    }


def information(*layers: object) -> str:
    return json.dumps({"Layers": list(layers), "Bindings": []})


HALF, INT8, FLOAT = ([{"Name": "x", "Format/Datatype": text}] for text in ("Half", "Int8", "Float"))


@pytest.mark.parametrize(
    ("fields", "precision"),
    [
        ({"Inputs": HALF}, "fp16"),
        ({"Inputs": [{"Format/Datatype": "Row major linear FP16 format"}]}, "fp16"),
        ({"Inputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}]}, "int8"),
        ({"Inputs": [{"Datatype": "FP8"}]}, "fp8"),
        ({"Inputs": INT8, "Weights": {"Type": "Float", "Count": 9}}, "fp32"),  # converted before it multiplies
        ({"Inputs": INT8, "Weights": {"Type": "Int8", "Count": 9}, "TacticName": "f32f32_tf32f32"}, "int8"),
        ({"Inputs": HALF, "TacticName": "sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tilesize64x64x64"}, "int8"),
        ({"Inputs": FLOAT, "TacticName": "sm86_xmma_fprop_implicit_gemm_f16f16_f16f32_f16_nhwckrsc"}, "fp16"),
        ({"Inputs": HALF, "TacticName": "sm89_xmma_gemm_e4m3e4m3_e4m3f32_f32_tn"}, "fp8"),
        (
            {"Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}], "TacticName": "gemm_tf32f32"},
            "fp32",
        ),
    ],
)
def test_a_layer_is_what_it_multiplies(fields: dict[str, Any], precision: str) -> None:
    assert found_precisions(information(layer(["conv"], **fields))) == {"conv": precision}


def test_fused_nodes_are_all_seen() -> None:
    found = found_precisions(information(layer(["a", "b"], Inputs=INT8), layer(["c"], Inputs=HALF)))
    assert found == {"a": "int8", "b": "int8", "c": "fp16"}


def test_a_node_in_two_layers_counts_with_its_higher_precision() -> None:
    cast, product = layer(["fc"], Inputs=INT8), layer(["fc"], Inputs=FLOAT)
    for order in ((cast, product), (product, cast)):
        assert found_precisions(information(*order)) == {"fc": "fp32"}


def test_as_asked_passes() -> None:
    asked = {f"conv{i}": "int8" for i in range(20)} | {"head": "fp16"}
    layers = [layer([name], Inputs=INT8 if precision == "int8" else HALF) for name, precision in asked.items()]
    found = judge(asked, information(*layers))
    assert (found.kept, found.fallen, found.unseen, found.problem) == (21, {}, (), None)
    assert found.asked == {"fp16": 1, "int8": 20}


def test_a_silent_fall_back_is_told_and_fails_past_a_tenth() -> None:
    asked = {f"conv{i}": "fp16" for i in range(20)}

    def engine(fallen: int) -> str:
        return information(*(layer([f"conv{i}"], Inputs=FLOAT if i < fallen else HALF) for i in range(20)))

    two = judge(asked, engine(2))
    assert two.fallen == {"conv0": "fp32", "conv1": "fp32"}
    assert two.problem is None
    assert judge(asked, engine(3)).problem == (
        "3 of 20 layers run in a higher precision than asked (3 in fp32), 10% may"
    )
    assert judge(asked, engine(20)).problem == (
        "20 of 20 layers run in a higher precision than asked (20 in fp32), 10% may"
    )


def test_int8_that_became_fp16_fell_back() -> None:
    assert judge({"fc": "int8"}, information(layer(["fc"], Inputs=HALF))).fallen == {"fc": "fp16"}
    assert judge({"fc": "fp16"}, information(layer(["fc"], Inputs=INT8))).fallen == {}


@pytest.mark.parametrize("text", ["", "not json", "[]", "{}", '{"Layers": 3}', '{"Layers": ["conv0", "conv1"]}'])
def test_nothing_to_see_is_no_proof(text: str) -> None:
    found = judge({"conv0": "fp16", "conv1": "fp16"}, text)
    assert found.problem == "the engine names only 0 of 2 layers: its precision cannot be judged"
    assert found.unseen == ("conv0", "conv1")


WORDS = st.sampled_from(["Layers", "Metadata", "Name", "Inputs", "Weights", "TacticName", "Type"]) | st.text()
LEAVES = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner)))
def test_no_answer_breaks_the_judge(value: object) -> None:
    assert judge({"conv": "fp16"}, json.dumps(value)).problem
