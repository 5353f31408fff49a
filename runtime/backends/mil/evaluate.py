"""Runs a MIL function in numpy, with the types that the file declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from clip_edge.runtime.backends.mil.operations import OPERATIONS, VARIADIC
from clip_edge.runtime.backends.mil.program import Function, Operation, TensorType, Value

DAMAGED = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)  # what a wrong file raises
Observe = Callable[[Operation, Mapping[str, Value]], None]


class UnknownOperationError(ValueError):
    """The program holds an operation that the table of operations has not."""


def prepare(function: Function) -> Function:
    """Check that every operation is known, and compute once what depends on constants alone: compressed weights.

    Raises:
        UnknownOperationError: names the operations that are not in the table.
    """
    unknown = sorted({item.type for item in function.operations} - OPERATIONS.keys())
    if unknown:
        raise UnknownOperationError(f"operations that the evaluator does not know: {', '.join(unknown)}")
    values, rest = dict(function.values), []
    for operation in function.operations:
        if all(name in values for names in operation.inputs.values() for name in names):
            _compute(operation, values)
        else:
            rest.append(operation)
    needed = {name for item in rest for names in item.inputs.values() for name in names} | set(function.outputs)
    kept = {name: value for name, value in values.items() if name in needed}
    return Function(function.inputs, function.outputs, rest, kept)


def run(function: Function, inputs: Mapping[str, np.ndarray], observe: Observe | None = None) -> dict[str, np.ndarray]:
    """The outputs of a prepared function. `observe` sees each operation and the values that exist before it.

    Raises:
        ValueError, TypeError, KeyError: the program does not fit together, or the inputs do not fit it.
    """
    values: dict[str, Value] = dict(function.values)
    for name, kind in function.inputs.items():
        values[name] = as_declared(inputs[name], kind, name)
    last_use = {
        name: i for i, item in enumerate(function.operations) for names in item.inputs.values() for name in names
    }
    with np.errstate(all="ignore"):  # what overflows becomes infinite, and is judged by who reads the result
        for i, operation in enumerate(function.operations):
            if observe is not None:
                observe(operation, values)
            _compute(operation, values)
            for names in operation.inputs.values():
                for name in names:
                    if last_use[name] == i and name not in function.outputs:
                        values.pop(name, None)
    return {name: np.asarray(values[name]) for name in function.outputs}


def _compute(operation: Operation, values: dict[str, Value]) -> None:
    arguments = {
        key: tuple(values[name] for name in names) if key in VARIADIC else values[names[0]]
        for key, names in operation.inputs.items()
    }
    try:
        results = OPERATIONS[operation.type](**arguments)
    except DAMAGED as problem:
        raise ValueError(f"`{operation.type}` ({operation.name}): {problem}") from problem
    found = results if isinstance(results, tuple) else (results,)
    for (name, kind), result in zip(operation.outputs, found, strict=True):
        values[name] = as_declared(np.asarray(result), kind, name)


def as_declared(result: np.ndarray, kind: TensorType, name: str) -> np.ndarray:
    """A result in its declared type: fp16 is rounded, and beyond 65504 infinite.

    Raises:
        ValueError: the shape is not the declared one.
    """
    if len(kind.shape) != result.ndim or any(
        want not in (-1, have) for want, have in zip(kind.shape, result.shape, strict=True)
    ):
        raise ValueError(f"`{name}` must have the shape {kind.shape}; found {result.shape}")
    if kind.data.name == "fp16":
        with np.errstate(over="ignore"):
            return result.astype(np.float16).astype(np.float32)
    return result.astype(kind.data.held, copy=False)
