"""What each MIL operation computes: one small function each, in tables by kind.

Parameters have the names that Apple's operation set gives them. Floats arrive and leave in float32; the evaluator
rounds what the program declares as fp16, so sums inside one operation are exact to fp32, as on Apple's hardware at
best. Python itself checks the parameters: one that is not known is an error.
"""

from __future__ import annotations

from collections.abc import Callable

from clip_edge.runtime.backends.mil.operations import constants, elementwise, layers, shapes, windows

OPERATIONS: dict[str, Callable[..., object]] = {
    **elementwise.OPERATIONS,
    **shapes.OPERATIONS,
    **layers.OPERATIONS,
    **windows.OPERATIONS,
    **constants.OPERATIONS,
}
VARIADIC = frozenset({"values"})  # parameters that take any number of tensors
