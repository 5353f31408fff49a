"""A saved MIL program: functions, operations and constants, from the bytes of an .mlpackage.

Field numbers are those of Model.proto and MIL.proto in Apple's coremltools.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from clip_edge.runtime.backends.mil import wire
from clip_edge.runtime.backends.mil.wire import Message

MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/"
MODEL_PATH = "@model_path/weights/"
ML_PROGRAM = 502  # field of Model
MAX_ELEMENTS = 1 << 29  # the largest vocabularies have 3e8 weights

Value = np.ndarray | str


@dataclass(frozen=True)
class DataType:
    """How numbers are stored: `stored` holds `bits` of each, and `held` is what the evaluator computes with."""

    name: str
    bits: int
    stored: np.dtype | None
    held: np.dtype


def _type(name: str, bits: int, held: str, stored: str | None = None) -> DataType:
    return DataType(name, bits, np.dtype(stored or held) if bits >= 8 else None, np.dtype(held))


# DataType of MIL.proto. fp16 is held in float32, and rounded after every operation that gives it.
TYPES = {
    1: _type("bool", 8, "?", "u1"),
    2: _type("string", 8, "U"),
    10: _type("fp16", 16, "<f4", "<f2"),
    11: _type("fp32", 32, "<f4"),
    21: _type("int8", 8, "i1"),
    22: _type("int16", 16, "<i2"),
    23: _type("int32", 32, "<i4"),
    25: _type("int4", 4, "i1"),
    31: _type("uint8", 8, "u1"),
    32: _type("uint16", 16, "<u2"),
    33: _type("uint32", 32, "<u4"),
    35: _type("uint4", 4, "u1"),
    36: _type("uint2", 2, "u1"),
    37: _type("uint1", 1, "u1"),
    38: _type("uint6", 6, "u1"),
    39: _type("uint3", 3, "u1"),
}


@dataclass(frozen=True)
class TensorType:
    """Type and shape of a value; -1 stands for a size that the file leaves open."""

    data: DataType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One operation. Inputs are names of values; those written into the operation itself have names of their own."""

    type: str
    name: str
    inputs: dict[str, tuple[str, ...]]
    outputs: tuple[tuple[str, TensorType], ...]


@dataclass
class Function:
    """One function: `operations` in order, and the values that need no computing."""

    inputs: dict[str, TensorType]
    outputs: tuple[str, ...]
    operations: list[Operation]
    values: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """A model: its functions (`main`, or one for each tower), and the specification it was written for."""

    specification: int
    functions: dict[str, Function]


def read_program(files: Mapping[str, bytes]) -> Program:
    """The program in the files of an .mlpackage, given by their paths inside it.

    Raises:
        ValueError, KeyError, UnicodeDecodeError: it is no such package.
    """
    model = wire.message(memoryview(files[MODEL]))
    if ML_PROGRAM not in model:
        raise ValueError("the model is no ML program")
    functions = {}
    for name, function in wire.entries(wire.child(model, ML_PROGRAM), 2):
        opset = wire.text(function, 2)
        blocks = dict(wire.entries(function, 3))
        functions[name] = _Reader(files).function(function, blocks[opset])
    return Program(wire.integer(model, 1), functions)


class _Reader:
    """Reads one function; values that have no name of their own are numbered."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.values: dict[str, Value] = {}

    def function(self, function: Message, block: Message) -> Function:
        inputs = dict(map(_named_type, wire.children(function, 1)))
        outputs = tuple(wire.as_bytes(name).tobytes().decode() for name in block.get(2, ()))
        operations = [self._operation(item) for item in wire.children(block, 3)]
        return Function(inputs, outputs, [item for item in operations if item.type != "const"], self.values)

    def _operation(self, item: Message) -> Operation:
        kind = wire.text(item, 1)
        if item.get(4):
            raise ValueError(f"`{kind}` holds blocks: control flow is not known here")
        outputs = tuple(map(_named_type, wire.children(item, 3)))
        attributes = {key: self._value(value) for key, value in wire.entries(item, 5)}
        name = str(attributes.pop("name", outputs[0][0]))
        if kind == "const":
            self.values[outputs[0][0]] = attributes.pop("val")
        inputs = {key: tuple(map(self._bound, wire.children(value, 1))) for key, value in wire.entries(item, 2)}
        inputs |= {key: (self._keep(value),) for key, value in attributes.items()}
        return Operation(kind, name, inputs, outputs)

    def _bound(self, binding: Message) -> str:
        return wire.text(binding, 1) if 1 in binding else self._keep(self._value(wire.child(binding, 2)))

    def _keep(self, value: Value) -> str:
        name = f"#{len(self.values)}"
        self.values[name] = value
        return name

    def _value(self, value: Message) -> Value:
        kind = _tensor_type(wire.child(value, 2))
        if 5 in value:
            return _restored(self._blob(wire.child(value, 5), kind), kind)
        tensor = wire.child(wire.child(value, 3), 1)
        if kind.data.name == "string":
            strings = wire.child(tensor, 4)
            return wire.text(strings, 1)
        if 7 in tensor:
            data = wire.child(tensor, 7).get(1, [memoryview(b"")])[-1]
            return _restored(wire.as_bytes(data), kind)
        return _immediate(tensor).astype(kind.data.held).reshape(kind.shape)

    def _blob(self, reference: Message, kind: TensorType) -> memoryview:
        """The bytes of a constant in a weight file: a 64-byte record (sentinel, type, size, place), then the data."""
        name = wire.text(reference, 1)
        if not name.startswith(MODEL_PATH):
            raise ValueError(f"a constant lies outside the package: `{name[:80]}`")
        weights = memoryview(self.files[WEIGHTS + name.removeprefix(MODEL_PATH)])
        record = wire.integer(reference, 2)
        if not 0 <= record <= len(weights) - 64:
            raise ValueError(f"no constant at byte {record} of {name}")
        sentinel, _, size, start = struct.unpack_from("<IIQQ", weights, record)
        if sentinel != 0xDEADBEEF or start + size > len(weights):
            raise ValueError(f"no constant at byte {record} of {name}")
        return weights[start : start + size]


def _named_type(item: Message) -> tuple[str, TensorType]:
    return wire.text(item, 1), _tensor_type(wire.child(item, 2))


def _tensor_type(value_type: Message) -> TensorType:
    tensor = wire.child(value_type, 1)
    number = wire.integer(tensor, 1)
    if number not in TYPES:
        raise ValueError(f"data type {number} is not known here")
    sizes = [wire.child(dimension, 1) for dimension in wire.children(tensor, 3)]
    shape = tuple(wire.integer(size, 1) if size else -1 for size in sizes)
    if math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"a tensor of shape {shape} is too large")
    return TensorType(TYPES[number], shape)


def _immediate(tensor: Message) -> np.ndarray:
    for number, dtype in ((1, np.float32), (6, np.float64)):
        if number in tensor:
            return wire.floats(wire.child(tensor, number), 1, dtype)
    for number in (2, 3, 5):  # ints, bools, longInts
        if number in tensor:
            return wire.integers(wire.child(tensor, number), 1)
    raise ValueError("a constant holds no value")


def _restored(data: memoryview, kind: TensorType) -> np.ndarray:
    """Stored bytes as an array; less than eight bits a number are packed, the lowest bits first."""
    count = math.prod(kind.shape)
    if len(data) != -(-count * kind.data.bits // 8):
        raise ValueError(f"{len(data)} bytes for {count} values of {kind.data.name}")
    if kind.data.stored is not None:
        return np.frombuffer(data, kind.data.stored).reshape(kind.shape).astype(kind.data.held)
    numbers = unpack_bits(np.frombuffer(data, np.uint8), kind.data.bits, count)
    if kind.data.name.startswith("int"):  # two's complement in `bits` bits
        top = 1 << (kind.data.bits - 1)
        numbers = (numbers ^ top).astype(np.int8) - np.int8(top)
    return numbers.astype(kind.data.held).reshape(kind.shape)


def unpack_bits(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    """`count` numbers of `bits` bits, packed one behind the other from the lowest bit on -> uint8."""
    stream = np.unpackbits(data, bitorder="little", count=count * bits).reshape(count, bits)
    powers = (1 << np.arange(bits)).astype(np.uint8)
    numbers: np.ndarray = (stream * powers).sum(1, dtype=np.uint8)
    return numbers
