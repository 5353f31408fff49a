"""A tower or graph of PyTorch as a MIL program with a batch of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from clip_edge.errors import ExportError
from clip_edge.export.coreml.interface import Interface
from clip_edge.export.coreml.tools import coremltools, forget_frames, quiet

# Ops that hold the embedding's length. A length of 1e-12 or a sum of squares above 65504 has no place in fp16.
L2_NORM = frozenset({"reduce_l2_norm", "reduce_sum_square", "maximum", "real_div", "tile", "l2_norm"})
NORMALISATIONS = frozenset({"layer_norm", "instance_norm", "batch_norm", "rsqrt", "reduce_mean", "square", "pow"})


def trace(face: Interface) -> torch.export.ExportedProgram:
    """What the package will compute as torch's own graph, with a batch of one.

    Raises:
        ExportError: torch cannot trace it.
    """
    try:
        with quiet(), torch.no_grad():
            traced = torch.export.export(face.module, tuple(face.examples.values()), dynamic_shapes=face.free())
            return without_aliases(traced.run_decompositions({}))
    except Exception as problem:  # torch wraps whatever failed inside it
        raise ExportError(
            f"torch {torch.__version__} cannot trace {type(face.job.module).__name__}: {_first_line(problem)}",
            hint="choose an image tower without data-dependent control flow",
        ) from problem


def without_aliases(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """`program` with every `alias` replaced by what it stands for, in place: coremltools 9.0 does not know it.

    Slices that take all of a buffer become one, such as those of the mask in a causal text tower.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0], delete_user_cb=lambda user: user.op != "output")
            if not node.users:
                graph.erase_node(node)
    program.graph_module.recompile()
    return program


def convert(
    face: Interface, program: torch.export.ExportedProgram, ios: int, in_fp32: Callable[[Any], bool] | None
) -> Any:
    """`program` as a Core ML model: fp16 but for the operations that `in_fp32` names, or all fp32 when it is None.

    Raises:
        ExportError: it needs an operation that the operation set of this iOS has not.
    """
    ct = coremltools()
    precision = ct.precision.FLOAT32
    if in_fp32 is not None:
        precision = ct.transform.FP16ComputePrecision(op_selector=lambda op: not in_fp32(op))
    try:
        with quiet():
            return ct.convert(
                program,
                inputs=face.given(),
                outputs=[ct.TensorType(name=name, dtype=np.float32) for name in face.outputs],
                minimum_deployment_target=getattr(ct.target, f"iOS{ios}"),
                compute_precision=precision,
                skip_model_load=True,
            )
    except Exception as problem:  # coremltools raises ValueError, RuntimeError, NotImplementedError, KeyError, ...
        forget_frames(problem)
        raise ExportError(
            f"coremltools {ct.__version__} cannot convert the {face.name} for iOS {ios}: {_first_line(problem)}",
            where=face.job.source.where,
            hint="the model may need operations that Core ML has not; `--target onnx` takes more of them",
        ) from problem


def editable(model: Any) -> Any:
    """The program of a model, read back from its saved form so that it can be changed."""
    coremltools()
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = model.get_spec()
    with quiet():
        return load(spec, spec.specificationVersion, model.weights_dir)


def lower(program: Any, model: Any) -> Any:
    """A changed MIL program as a Core ML model again, with the interface of `model`."""
    ct = coremltools()
    from coremltools.converters.mil.converter import mil_convert

    program.skip_all_passes = True
    with quiet():
        return mil_convert(
            program,
            convert_to="mlprogram",
            convert_from="milinternal",
            specification_version=model.get_spec().specificationVersion,
            compute_units=ct.ComputeUnit.ALL,
            model_description=model.get_spec().description,
            skip_model_load=True,
        )


def _first_line(problem: BaseException) -> str:
    while problem.__cause__ is not None:
        problem = problem.__cause__
    return (str(problem).strip() or type(problem).__name__).partition("\n")[0][:300]
