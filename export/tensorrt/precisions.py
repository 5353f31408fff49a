"""Lower precisions as TensorRT reads them: fp16 by casts, 8 bits by Q/DQ pairs with everything else in fp16."""

from __future__ import annotations

import onnx

from clip_edge.export.calibration import judged_rows
from clip_edge.export.half import Rules, overflowing, to_half
from clip_edge.export.job import Job
from clip_edge.export.tensorrt.eight_bits import eight_bits
from clip_edge.quantization import Quantization


def lower(model: onnx.ModelProto, job: Job) -> tuple[onnx.ModelProto, Quantization | None]:
    """`model` in the precision of the job, and the report on what 8 bits did to each layer.

    Raises:
        UsageError: 8 bits without calibration data.
        ExportError: the tolerance cannot be kept.
    """
    if job.precision == "fp32":
        return model, None
    if job.precision == "fp16":
        return to_half(model, Rules(), overflowing(model, judged_rows(job), job.console)), None
    return eight_bits(model, job)
