"""OpenVINO on the CPU in bfloat16, which processors with AMX multiply about twice as fast as float32.

It keeps 8 bits of the mantissa where fp16 keeps 11: enough for some models, not for all. `clip-edge verify` tells.
"""

from __future__ import annotations

import importlib.util

from clip_edge.bundle import Artifact, Bundle
from clip_edge.machine import cpu
from clip_edge.runtime.backends import Options, Run

HAVE_BF16 = frozenset({"avx512_bf16", "bf16"})  # x86, where AMX machines have it too; Arm


def is_found() -> bool:
    """Whether OpenVINO is here, and the processor multiplies bfloat16."""
    return importlib.util.find_spec("openvino") is not None and bool(HAVE_BF16.intersection(cpu().isa))


def open_tower(bundle: Bundle, artifact: Artifact, options: Options) -> Run:
    """One tower as a function from its input array to (B, D) float32.

    Raises:
        BundleError: the file was changed, or OpenVINO cannot read, compile or run it.
    """
    from clip_edge.runtime.backends.openvino import open_as

    return open_as({"INFERENCE_PRECISION_HINT": "bf16"}, bundle, artifact, options)
