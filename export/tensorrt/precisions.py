"""Lower precisions as TensorRT reads them: fp16 by casts, 8 bits by Q/DQ pairs with everything else in fp16."""

from __future__ import annotations

import onnx

from clip_edge.export.calibration import judged_rows
from clip_edge.export.half import finite_masks, overflowing
from clip_edge.export.job import Job
from clip_edge.export.quantize.graph import Graph
from clip_edge.export.tensorrt.eight_bits import eight_bits, nearest_half
from clip_edge.quantization import Quantization


def typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A traced fp32 graph with every constant where its type can be read, and masks that every type can hold."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _inline_constants(copy)
    graph = Graph(copy)
    finite_masks(graph)
    return graph.finish()


def lower(model: onnx.ModelProto, job: Job) -> tuple[onnx.ModelProto, Quantization | None]:
    """`model` in the precision of the job, and the report on what 8 bits did to each layer.

    Raises:
        UsageError: 8 bits without calibration data.
        ExportError: the tolerance cannot be kept.
    """
    if job.precision == "fp32":
        return model, None
    if job.precision == "fp16":
        rows = judged_rows(job)
        return nearest_half(model, model, overflowing(model, rows, job.console), rows, job), None
    return eight_bits(model, job)


def _inline_constants(model: onnx.ModelProto) -> None:
    """Turn `Constant` nodes into initializers, so that there is one kind of constant."""
    kept = []
    for node in model.graph.node:
        value = next((item.t for item in node.attribute if item.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            value.name = node.output[0]
            model.graph.initializer.append(value)
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
