"""One tower as one clean ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from clip_edge.distill.models.checkpoint import load_student
from clip_edge.errors import ExportError
from clip_edge.export.onnx import save, trace
from clip_edge.export.targets import Declaration

ROWS = Declaration("rows", "float32", "sums", "sums")


class Branching(nn.Module):
    """Control flow that depends on the data: no graph can hold it."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows if rows.sum() > 0 else -rows


def test_graphs_hold_nothing_about_this_machine(tiny_bundle: Path) -> None:
    for name in ("vision_model", "text_model"):
        data = (tiny_bundle / "onnx" / f"{name}.onnx").read_bytes()
        model = onnx.load_from_string(data)
        assert model.producer_name == "clip-edge"
        assert not model.metadata_props
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
        assert b"site-packages" not in data
        assert b"stack_trace" not in data
        assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_graphs_keep_their_contract(tiny_bundle: Path) -> None:
    expected = {"vision_model": ("pixel_values", "image_embeds"), "text_model": ("input_ids", "text_embeds")}
    for name, (source, result) in expected.items():
        model = onnx.load(tiny_bundle / "onnx" / f"{name}.onnx")
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
        for value, wanted in ((model.graph.input[0], source), (model.graph.output[0], result)):
            assert value.name == wanted
            first, *others = value.type.tensor_type.shape.dim
            assert first.dim_param == "batch"
            assert all(other.dim_value > 0 for other in others)
        operations = {node.op_type for node in model.graph.node}
        assert not operations & {"If", "Loop", "Scan", "NonZero", "BatchNormalization", "Dropout", "ArgMax"}


def test_the_first_end_counts_in_the_graph_too(tiny_bundle: Path, tiny_student: Path) -> None:
    """EOS right behind BOS, at the very end, and repeated as tokenizers that pad with EOS do."""
    student = load_student(tiny_student).student
    tokens = student.text.tokens
    ids = np.full((3, tokens.context_length), tokens.pad_id, np.int64)
    random = np.random.default_rng(0)
    for row, end in enumerate((1, tokens.context_length - 1, 5)):
        ids[row, :end] = random.integers(20, 60, end)
        ids[row, end] = tokens.eos_id
    ids[2, 5:] = tokens.eos_id
    session = onnxruntime.InferenceSession(tiny_bundle / "onnx/text_model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input_ids": ids})
    with torch.inference_mode():
        expected = student.encode_text(torch.from_numpy(ids)).numpy()
    assert np.abs(found - expected).max() < 1e-5


def test_a_norm_over_channels_is_one_operation() -> None:
    """Mean, power and root one by one lose their digits in fp16, and no runtime knows them for a norm again."""
    model = trace(LayerNorm2d(8).eval(), torch.randn(2, 8, 3, 3), ROWS, 18)
    operations = {node.op_type for node in model.graph.node}
    assert "LayerNormalization" in operations
    assert not operations & {"Pow", "Sqrt", "ReduceMean", "Div"}


def test_any_batch_runs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = nn.Linear(4, 2).eval()
    path = tmp_path / "sums.onnx"
    save(trace(tower, torch.zeros(2, 4), ROWS, 18), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 2, 7):
        rows = np.random.default_rng(batch).random((batch, 4), dtype=np.float32)
        (sums,) = session.run(None, {"rows": rows})
        assert np.allclose(sums, tower(torch.from_numpy(rows)).detach().numpy(), atol=1e-6)


def test_a_tower_that_cannot_be_traced_says_which(tmp_path: Path) -> None:
    path = tmp_path / "sums.onnx"
    with pytest.raises(ExportError) as caught:
        save(trace(Branching(), torch.ones(2, 4), ROWS, 18), path)
    assert caught.value.what.startswith(f"torch {torch.__version__} cannot trace Branching: ")
    assert caught.value.hint is not None
    assert not path.exists()
