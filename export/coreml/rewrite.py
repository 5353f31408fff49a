"""Changes a finished MIL program: constants become compressed ones, and activations pass through eight bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from clip_edge.export.coreml.tools import coremltools
from clip_edge.export.coreml.weights import LEAST, Packed, Weight

# operation -> the input that holds its weights. (A second factor of `matmul` may be a constant too.)
WEIGHTED = {"conv": "weight", "linear": "weight", "gather": "x", "matmul": "y"}


def find_weights(program: Any) -> dict[str, Weight]:
    """The constants worth compressing, by their names in the program."""
    found: dict[str, Weight] = {}
    for operation in program.functions["main"].operations:
        if operation.op_type not in WEIGHTED:
            continue
        constant = operation.inputs[WEIGHTED[operation.op_type]]
        if constant.op is None or constant.op.op_type != "const" or constant.val.ndim < 2:
            continue
        if constant.val.dtype == np.float16 and constant.val.size >= LEAST:
            depthwise = operation.op_type == "conv" and constant.val.shape[1] == 1
            values = constant.val.astype(np.float32)
            found[constant.name] = Weight(constant.name, operation.op_type, values, depthwise)
    return found


def compress(program: Any, packed: Mapping[str, Packed], ios: int) -> None:
    """Replace constants by their compressed forms, in place."""
    coremltools()
    from coremltools.converters.mil.mil import Builder

    function = program.functions["main"]
    with function:
        for operation in list(function.operations):
            if operation.op_type != "const" or operation.outputs[0].name not in packed:
                continue
            old = operation.outputs[0]
            new = _compressed(Builder, packed[old.name], ios, operation, f"{old.name}_packed")
            function.replace_uses_of_var_after_op(
                anchor_op=operation, old_var=old, new_var=new, no_check_var_types=True
            )
            function.remove_ops([operation])


def _compressed(builder: Any, packed: Packed, ios: int, before: Any, name: str) -> Any:
    from coremltools.converters.mil.mil import types

    where = {"before_op": before, "name": name}
    if packed.scheme == "scale" and ios < 18:  # one scale for each channel
        scale = packed.parts.reshape(-1)
        return builder.constexpr_affine_dequantize(
            quantized_data=packed.codes, zero_point=np.zeros(len(scale), np.int8), scale=scale, axis=0, **where
        )
    if packed.scheme == "table" and ios < 18:  # one table, indices packed into bytes
        shape, table = np.array(packed.codes.shape, np.uint32), packed.parts.reshape(-1)
        return builder.constexpr_lut_to_dense(
            indices=_pack_bits(packed.codes, packed.bits), lut=table, shape=shape, **where
        )
    if packed.scheme == "scale":
        kind = types.nptype_from_builtin(types.int4 if packed.bits == 4 else types.int8)
        return builder.constexpr_blockwise_shift_scale(data=packed.codes.astype(kind), scale=packed.parts, **where)
    kind = types.nptype_from_builtin(types.uint4 if packed.bits == 4 else types.uint6)
    return builder.constexpr_lut_to_dense(indices=packed.codes.astype(kind), lut=packed.parts, **where)


def _pack_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """Numbers of `bits` bits one behind the other, the lowest bits first."""
    stream = np.unpackbits(codes.reshape(-1, 1), axis=1, bitorder="little")[:, :bits]
    return np.packbits(stream.ravel(), bitorder="little")


def quantized_inputs(program: Any) -> Iterator[tuple[Any, str]]:
    """Operations whose input may pass through eight bits, and the name of that input: dense convolutions and products.

    Depthwise convolutions, the first layer and layers with fewer than 16 inputs or outputs stay: they are quick anyway
    and lose the most.
    """
    for index, operation in enumerate(_layers(program)):
        weight = operation.inputs["weight"]
        small = weight.val.size < LEAST or min(weight.val.shape[:2]) < 16
        if index > 0 and not small and weight.val.dtype == np.float16:
            yield operation, operation.inputs["x"].name


def _layers(program: Any) -> list[Any]:
    """Convolutions and linear layers with constant weights, in order."""
    return [
        operation
        for operation in program.functions["main"].operations
        if operation.op_type in ("conv", "linear") and operation.inputs["weight"].val is not None
    ]


def quantize_activations(program: Any, peaks: Mapping[str, tuple[float, float]], keep: frozenset[str]) -> None:
    """Let the input of each layer pass through int8, or uint8 where it is never negative, in place.

    `peaks` holds the smallest and largest value of each tensor by name; layers whose weight is in `keep` stay.
    """
    coremltools()
    from coremltools.converters.mil.mil import Builder

    function = program.functions["main"]
    chosen = [(operation, name) for operation, name in quantized_inputs(program)]
    done: dict[str, Any] = {}
    with function:
        for operation, name in chosen:
            if operation.inputs["weight"].name in keep:
                continue
            old = operation.inputs["x"]
            if name not in done:
                dtype, scale = activation_scale(*peaks[name])
                kind = {"scale": scale, "before_op": operation}
                small = Builder.quantize(input=old, output_dtype=dtype, name=f"{name}_{dtype}", **kind)
                done[name] = Builder.dequantize(input=small, name=f"{name}_from_{dtype}", **kind)
            everything = list(function.operations)
            previous = everything[everything.index(operation) - 1]
            function.replace_uses_of_var_after_op(  # here only: what else reads the value keeps all its bits
                anchor_op=previous, end_op=operation, old_var=old, new_var=done[name], no_check_var_types=True
            )


def activation_scale(low: float, high: float) -> tuple[str, np.float16]:
    """The type and scale that hold values from `low` to `high`."""
    dtype, top = ("uint8", 255.0) if low >= 0 else ("int8", 127.0)
    return dtype, max(np.float16(max(-low, high) / top), np.finfo(np.float16).tiny)
