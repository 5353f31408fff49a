"""Reading packages: the wire format against Google's own, hostile bytes, and programs written by hand."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from clip_edge.preprocess import PreprocessSpec, normalize
from clip_edge.runtime.backends.mil import wire
from clip_edge.runtime.backends.mil.evaluate import UnknownOperationError, as_declared, prepare, run
from clip_edge.runtime.backends.mil.program import (
    MODEL,
    TYPES,
    Function,
    Operation,
    TensorType,
    read_program,
    unpack_bits,
)
from clip_edge.runtime.backends.mil.program import (
    WEIGHTS as FOLDER,
)
from clip_edge.runtime.backends.pixels import denormalize

WEIGHTS = f"{FOLDER}weight.bin"
FP16, FP32, INT32 = TYPES[10], TYPES[11], TYPES[23]


def field(number: int, value: int | bytes) -> bytes:
    """One field in protobuf's wire format."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def tensor_type(number: int, *shape: int) -> bytes:
    sizes = b"".join(field(3, field(1, field(1, size))) for size in shape)
    return field(1, field(1, number) + field(2, len(shape)) + sizes)


def named(name: str, kind: bytes) -> bytes:
    return field(1, name.encode()) + field(2, kind)


def entry(key: str, value: bytes) -> bytes:
    return field(1, key.encode()) + field(2, value)


def model(*operations: bytes, output: str = "y", inputs: bytes | None = None) -> bytes:
    block = field(2, output.encode()) + b"".join(field(3, operation) for operation in operations)
    given = named("x", tensor_type(10, 1, 4)) if inputs is None else inputs
    function = field(1, given) + field(2, b"CoreML8") + field(3, entry("CoreML8", block))
    return field(1, 9) + field(502, field(2, entry("main", function)))


def constant(name: str, value: bytes) -> bytes:
    kind = wire.as_bytes(wire.message(memoryview(value))[2][0]).tobytes()
    return field(1, b"const") + field(3, named(name, kind)) + field(5, entry("val", value))


def operation(kind: str, output: bytes, **inputs: str) -> bytes:
    bound = b"".join(field(2, entry(key, field(1, field(1, name.encode())))) for key, name in inputs.items())
    return field(1, kind.encode()) + bound + field(3, output)


def stored(kind: int, offset: int, *shape: int, file: str = "@model_path/weights/weight.bin") -> bytes:
    return field(2, tensor_type(kind, *shape)) + field(5, field(1, file.encode()) + field(2, offset))


def weight_file(data: bytes, start: int = 128) -> bytes:
    return struct.pack("<II56x", 1, 2) + struct.pack("<IIQQ40x", 0xDEADBEEF, 1, len(data), start) + data


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20),
    st.lists(st.text(max_size=20), max_size=5),
    st.booleans(),
)
def test_the_reader_agrees_with_protobuf(numbers: list[int], names: list[str], flag: bool) -> None:
    theirs = descriptor_pb2.FileDescriptorProto(name="n", dependency=names, public_dependency=numbers)
    theirs.options.java_multiple_files = flag
    mine = wire.message(memoryview(theirs.SerializeToString()))
    assert wire.text(mine, 1) == "n"
    assert [wire.as_bytes(name).tobytes().decode() for name in mine.get(3, [])] == names
    assert list(wire.integers(mine, 10).astype(np.int32)) == numbers
    assert wire.integer(wire.child(mine, 8), 10) == flag


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        wire.message(memoryview(data))
    with contextlib.suppress(ValueError, KeyError):  # UnicodeDecodeError is a ValueError
        read_program({MODEL: data, WEIGHTS: b""})


@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=50))
def test_bits_are_unpacked_from_the_lowest_on(bits: int, numbers: list[int]) -> None:
    numbers = [number % (1 << bits) for number in numbers]
    packed = sum(number << (bits * i) for i, number in enumerate(numbers))
    data = np.frombuffer(packed.to_bytes(-(-len(numbers) * bits // 8), "little"), np.uint8)
    assert list(unpack_bits(data, bits, len(numbers))) == numbers


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x08", "the message ends within a number"),
        (b"\x08" + b"\xff" * 10, "a number is longer than ten bytes"),
        (b"\x0a\x05abc", "the message ends 2 bytes too early"),
        (b"\x0b", "wire type 3 is not known"),
        (b"", "the model is no ML program"),
        (model(operation("relu", named("y", tensor_type(99, 1)), x="x")), "data type 99 is not known here"),
        (model(operation("relu", named("y", tensor_type(10, 1 << 20, 1 << 20)), x="x")), "is too large"),
        (model(constant("w", stored(10, 64, 4, file="@model_path/weights/../../x"))), r"weights/\.\./"),
        (model(constant("w", stored(10, 64, 4, file="/etc/passwd"))), "a constant lies outside the package"),
        (model(constant("w", stored(10, 1 << 40, 4))), "no constant at byte"),
        (model(constant("w", stored(10, 0, 4))), "no constant at byte 0"),
        (model(constant("w", stored(10, 64, 5))), "8 bytes for 5 values of fp16"),
        (model(constant("w", field(2, tensor_type(10, 4)))), "a constant holds no value"),
        (model(operation("while_loop", named("y", tensor_type(10, 4)), x="x") + field(4, b"")), "control flow"),
    ],
)
def test_damaged_packages_are_refused(data: bytes, message: str) -> None:
    files = {MODEL: data, WEIGHTS: weight_file(np.zeros(4, np.float16).tobytes())}
    with pytest.raises((ValueError, KeyError), match=message):
        read_program(files)


def test_a_weight_file_that_ends_early_is_refused() -> None:
    with pytest.raises(ValueError, match="no constant at byte 64"):
        read_program({MODEL: model(constant("w", stored(10, 64, 4))), WEIGHTS: weight_file(b"1234", start=1 << 50)})


def test_a_program_runs_and_rounds_where_it_says_fp16() -> None:
    values = np.array([1, 2, 3, 4], np.float16)
    data = model(
        constant("w", stored(10, 64, 1, 4)),
        operation("mul", named("m", tensor_type(10, 1, 4)), x="x", y="w"),
        operation("identity", named("y", tensor_type(11, 1, 4)), x="m"),
    )
    program = read_program({MODEL: data, WEIGHTS: weight_file(values.tobytes())})
    assert program.specification == 9
    x = np.array([[1.0001, 0.1, 30000, 1e-9]], np.float32)
    found = run(prepare(program.functions["main"]), {"x": x})["y"]
    with np.errstate(over="ignore"):
        expected = (x.astype(np.float16).astype(np.float32) * values.astype(np.float32)).astype(np.float16)
    assert found.dtype == np.float32
    assert list(found[0]) == list(expected[0].astype(np.float32))
    assert np.isinf(found[0, 2])


def test_signed_numbers_of_four_bits() -> None:
    packed = bytes([0x8F, 0x70])  # -1, -8, 0, 7
    data = model(
        constant("c", stored(25, 64, 1, 4)),
        constant("s", field(2, tensor_type(10, 1, 1)) + field(3, field(1, field(7, field(1, b"\x00\x38"))))),  # 0.5
        operation("constexpr_blockwise_shift_scale", named("w", tensor_type(10, 1, 4)), data="c", scale="s"),
        operation("add", named("y", tensor_type(10, 1, 4)), x="x", y="w"),
    )
    function = prepare(read_program({MODEL: data, WEIGHTS: weight_file(packed)}).functions["main"])
    assert [item.type for item in function.operations] == ["add"]  # weights are decompressed once
    assert list(run(function, {"x": np.zeros((1, 4))})["y"][0]) == [-0.5, -4, 0, 3.5]


def chain(*operations: Operation) -> Function:
    return Function({"x": TensorType(FP32, (1, 2))}, ("y",), list(operations), {"two": np.float32(2)})


def test_unknown_operations_are_named() -> None:
    made = (("y", TensorType(FP32, (1, 2))),)
    function = chain(Operation("lstm", "a", {"x": ("x",)}, made), Operation("gru", "b", {"x": ("x",)}, made))
    with pytest.raises(UnknownOperationError, match="operations that the evaluator does not know: gru, lstm"):
        prepare(function)


def test_an_unknown_parameter_is_an_error() -> None:
    function = chain(Operation("relu", "act", {"x": ("x",), "slope": ("two",)}, (("y", TensorType(FP32, (1, 2))),)))
    with pytest.raises(ValueError, match=r"`relu` \(act\): .*slope"):
        run(prepare(function), {"x": np.zeros((1, 2))})


def test_a_shape_that_differs_from_the_declared_one_is_an_error() -> None:
    function = chain(Operation("relu", "act", {"x": ("x",)}, (("y", TensorType(FP32, (1, 3))),)))
    with pytest.raises(ValueError, match=r"`y` must have the shape \(1, 3\); found \(1, 2\)"):
        run(prepare(function), {"x": np.zeros((1, 2))})


def test_declared_types() -> None:
    value = np.array([1.9, -1.9, 70000.0])
    assert list(as_declared(value, TensorType(INT32, (3,)), "v")) == [1, -1, 70000]
    assert np.isinf(as_declared(value, TensorType(FP16, (3,)), "v")[2])
    assert as_declared(value, TensorType(FP16, (-1,)), "v").dtype == np.float32


@given(
    st.tuples(*[st.floats(0, 1, width=32)] * 3),
    st.tuples(*[st.floats(0.125, 1, width=32)] * 3),
)
def test_pixels_survive_normalising(mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
    spec = PreprocessSpec(16, mean=mean, std=std)
    pixels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, -1)
    found = denormalize(normalize(pixels, spec), spec)
    assert np.array_equal(found, np.moveaxis(pixels, -1, -3))
