"""Every MIL operation against PyTorch, or numpy where PyTorch has none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip_edge.runtime.backends.mil.operations import OPERATIONS

Case = tuple[str, dict[str, object], object]  # operation, its inputs, what it must give

random = np.random.default_rng(0)
X = random.normal(size=(2, 6, 8, 10)).astype(np.float32)
Y = random.normal(size=(2, 6, 8, 10)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)
WHOLE = random.integers(-20, 20, (3, 4)).astype(np.int32)
ROW = random.normal(size=(2, 6, 12)).astype(np.float32)


def t(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def some(*shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32)


def unary() -> list[Case]:
    same: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "abs": torch.abs,
        "ceil": torch.ceil,
        "cos": torch.cos,
        "erf": torch.erf,
        "exp": torch.exp,
        "floor": torch.floor,
        "gelu": F.gelu,
        "identity": lambda x: x,
        "relu": F.relu,
        "relu6": F.relu6,
        "round": torch.round,
        "sigmoid": torch.sigmoid,
        "sign": torch.sign,
        "silu": F.silu,
        "sin": torch.sin,
        "softplus": F.softplus,
        "softsign": F.softsign,
        "square": torch.square,
        "tanh": torch.tanh,
    }
    cases: list[Case] = [(name, {"x": 3 * X}, function(t(3 * X)).numpy()) for name, function in same.items()]
    cases += [
        ("sqrt", {"x": POSITIVE}, np.sqrt(POSITIVE)),
        ("rsqrt", {"x": POSITIVE}, torch.rsqrt(t(POSITIVE)).numpy()),
        ("rsqrt", {"x": POSITIVE, "epsilon": np.float32(0.5)}, 1 / np.sqrt(POSITIVE + 0.5)),
        ("log", {"x": POSITIVE}, np.log(POSITIVE)),
        ("inverse", {"x": POSITIVE, "epsilon": np.float32(0)}, 1 / POSITIVE),
        ("gelu", {"x": X, "mode": "TANH_APPROXIMATION"}, F.gelu(t(X), approximate="tanh").numpy()),
        ("gelu", {"x": X, "mode": "SIGMOID_APPROXIMATION"}, (t(X) * torch.sigmoid(1.702 * t(X))).numpy()),
        ("clip", {"x": X, "alpha": np.float32(-0.5), "beta": np.float32(1)}, np.clip(X, -0.5, 1)),
        ("elu", {"x": X, "alpha": np.float32(0.7)}, F.elu(t(X), 0.7).numpy()),
        ("leaky_relu", {"x": X, "alpha": np.float32(0.1)}, F.leaky_relu(t(X), 0.1).numpy()),
        ("linear_activation", {"x": X, "alpha": np.float32(2), "beta": np.float32(1)}, 2 * X + 1),
        ("prelu", {"x": X, "alpha": some(6)}, None),
        ("sigmoid_hard", {"x": X, "alpha": np.float32(1 / 6), "beta": np.float32(0.5)}, F.hardsigmoid(t(X)).numpy()),
        ("cast", {"x": X, "dtype": "fp16"}, X),
        ("logical_not", {"x": X > 0}, X <= 0),
    ]
    return cases


def binary() -> list[Case]:
    same: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "add": np.add,
        "equal": np.equal,
        "greater": np.greater,
        "greater_equal": np.greater_equal,
        "less": np.less,
        "less_equal": np.less_equal,
        "maximum": np.maximum,
        "minimum": np.minimum,
        "mul": np.multiply,
        "not_equal": np.not_equal,
        "sub": np.subtract,
    }
    cases: list[Case] = [(name, {"x": X, "y": Y}, function(X, Y)) for name, function in same.items()]
    three = np.int32(3)
    return [
        *cases,
        ("real_div", {"x": X, "y": POSITIVE}, X / POSITIVE),
        ("real_div", {"x": WHOLE, "y": three}, np.floor(WHOLE / 3)),
        ("floor_div", {"x": WHOLE, "y": three}, torch.floor_divide(t(WHOLE), 3).numpy()),
        ("mod", {"x": WHOLE, "y": three}, torch.remainder(t(WHOLE), 3).numpy()),
        ("pow", {"x": POSITIVE, "y": np.float32(1.5)}, POSITIVE**1.5),
        ("logical_and", {"x": X > 0, "y": Y > 0}, (X > 0) & (Y > 0)),
        ("logical_or", {"x": X > 0, "y": Y > 0}, (X > 0) | (Y > 0)),
        ("select", {"cond": X > 0, "a": X, "b": Y}, np.where(X > 0, X, Y)),
    ]


def shapes() -> list[Case]:
    numbers = ints(2, 0, 1)
    return [
        ("reshape", {"x": X, "shape": ints(0, -1, 10)}, X.reshape(2, 48, 10)),
        ("squeeze", {"x": X[:1, :, :1], "axes": ints(2)}, X[:1, :, 0]),
        ("squeeze", {"x": X[:1, :, :1]}, X[0, :, 0]),
        ("expand_dims", {"x": X, "axes": ints(1, -1)}, X[:, None, ..., None]),
        ("transpose", {"x": X, "perm": ints(0, 2, 3, 1)}, t(X).permute(0, 2, 3, 1).numpy()),
        ("concat", {"values": (X, Y), "axis": ints(1)[0]}, torch.cat([t(X), t(Y)], 1).numpy()),
        (
            "concat",
            {"values": (X, Y), "axis": ints(1)[0], "interleave": np.True_},
            torch.stack([t(X), t(Y)], 2).flatten(1, 2).numpy(),
        ),
        ("stack", {"values": (X, Y), "axis": ints(1)[0]}, torch.stack([t(X), t(Y)], 1).numpy()),
        ("split", {"x": X, "num_splits": ints(3)[0], "axis": ints(1)[0]}, tuple(np.split(X, 3, 1))),
        ("split", {"x": X, "split_sizes": ints(1, 2, 3), "axis": ints(1)[0]}, (X[:, :1], X[:, 1:3], X[:, 3:])),
        ("tile", {"x": X, "reps": ints(1, 2, 1, 3)}, t(X).repeat(1, 2, 1, 3).numpy()),
        ("gather", {"x": X, "indices": numbers, "axis": ints(1)[0]}, torch.index_select(t(X), 1, t(numbers)).numpy()),
        ("gather", {"x": X[0, 0], "indices": ints(-1, 0)}, X[0, 0][[-1, 0]]),
        (
            "gather_along_axis",
            {"x": X, "indices": np.argsort(X, 2), "axis": ints(2)[0]},
            torch.gather(t(X), 2, t(np.argsort(X, 2))).numpy(),
        ),
        ("gather_nd", {"x": X, "indices": np.array([[0, 1], [1, 5]])}, np.stack([X[0, 1], X[1, 5]])),
        ("slice_by_index", {"x": X, "begin": ints(0, 1, 0, 2), "end": ints(2, 5, 8, 9)}, X[:, 1:5, :, 2:9]),
        (
            "slice_by_index",
            {
                "x": X,
                "begin": ints(0, 3, 0, 2),
                "end": ints(0, 0, 0, 9),
                "stride": ints(1, 1, 2, 3),
                "begin_mask": np.array([True, False, True, False]),
                "end_mask": np.array([True, False, True, False]),
                "squeeze_mask": np.array([False, True, False, False]),
            },
            X[:, 3, ::2, 2:9:3],
        ),
        ("slice_by_size", {"x": X, "begin": ints(0, 1, 0, 2), "size": ints(-1, 2, -1, 3)}, X[:, 1:3, :, 2:5]),
        ("pad", {"x": X, "pad": ints(1, 2, 3, 0)}, F.pad(t(X), (3, 0, 1, 2)).numpy()),
        (
            "pad",
            {"x": X, "pad": ints(1, 2, 3, 0), "mode": "reflect"},
            F.pad(t(X), (3, 0, 1, 2), mode="reflect").numpy(),
        ),
        (
            "pad",
            {"x": X, "pad": ints(1, 2, 3, 0), "mode": "replicate"},
            F.pad(t(X), (3, 0, 1, 2), mode="replicate").numpy(),
        ),
        ("fill", {"shape": ints(2, 3), "value": np.float32(4)}, np.full((2, 3), 4)),
        ("shape", {"x": X}, np.array([2, 6, 8, 10])),
        ("range_1d", {"start": np.int32(1), "end": np.int32(9), "step": np.int32(3)}, np.arange(1, 9, 3)),
        ("reverse", {"x": X, "axes": ints(1, 3)}, torch.flip(t(X), (1, 3)).numpy()),
        ("band_part", {"x": X, "lower": ints(-1)[0], "upper": ints(0)[0]}, torch.tril(t(X)).numpy()),
        ("band_part", {"x": X, "lower": ints(0)[0], "upper": ints(-1)[0]}, torch.triu(t(X)).numpy()),
        ("cumsum", {"x": X, "axis": ints(1)[0]}, torch.cumsum(t(X), 1).numpy()),
        ("cumsum", {"x": X, "axis": ints(1)[0], "exclusive": np.True_, "reverse": np.True_}, None),
        ("pixel_shuffle", {"x": some(1, 8, 3, 4), "upscale_factor": np.int32(2)}, None),
    ]


def products() -> list[Case]:
    q, k, v = some(2, 3, 5, 4), some(2, 3, 7, 4), some(2, 3, 7, 4)
    mask, hidden = some(5, 7), random.random((5, 7)) > 0.3
    hidden[:, 0] = True
    weight, bias, gamma, beta, mean = some(9, 10), some(9), some(6), some(6), some(6)
    variance, wide, low = np.abs(some(6)), some(8, 10), some(8, 10)
    normed = F.batch_norm(t(X), t(mean), t(variance), t(gamma), t(beta)).numpy()
    layer = F.layer_norm(t(X), (8, 10), t(wide), t(low), 1e-3).numpy()
    attention = F.scaled_dot_product_attention
    inputs = {"query": q, "key": k, "value": v}
    return [
        ("linear", {"x": X, "weight": weight, "bias": bias}, F.linear(t(X), t(weight), t(bias)).numpy()),
        ("linear", {"x": X, "weight": weight}, F.linear(t(X), t(weight)).numpy()),
        ("matmul", {"x": q, "y": k, "transpose_y": np.True_}, (t(q) @ t(k).mT).numpy()),
        ("matmul", {"x": k, "y": v, "transpose_x": np.True_}, (t(k).mT @ t(v)).numpy()),
        ("einsum", {"values": (q, k), "equation": "abcd,abed->abce"}, (t(q) @ t(k).mT).numpy()),
        ("softmax", {"x": X, "axis": ints(1)[0]}, F.softmax(t(X), 1).numpy()),
        ("scaled_dot_product_attention", inputs, attention(t(q), t(k), t(v)).numpy()),
        (
            "scaled_dot_product_attention",
            {**inputs, "attn_mask": mask},
            attention(t(q), t(k), t(v), attn_mask=t(mask)).numpy(),
        ),
        (
            "scaled_dot_product_attention",
            {**inputs, "attn_mask": hidden},
            attention(t(q), t(k), t(v), attn_mask=t(hidden)).numpy(),
        ),
        ("batch_norm", {"x": X, "mean": mean, "variance": variance, "gamma": gamma, "beta": beta}, normed),
        ("layer_norm", {"x": X, "axes": ints(2, 3), "gamma": wide, "beta": low, "epsilon": np.float32(1e-3)}, layer),
        ("layer_norm", {"x": X, "axes": ints(-1)}, F.layer_norm(t(X), (10,)).numpy()),
        (
            "instance_norm",
            {"x": X, "gamma": gamma, "beta": beta},
            F.instance_norm(t(X), None, None, t(gamma), t(beta)).numpy(),
        ),
        ("l2_norm", {"x": X, "epsilon": np.float32(0)}, F.normalize(t(X).flatten(1), dim=1).reshape(X.shape).numpy()),
    ]


def reductions() -> list[Case]:
    axes = {"axes": ints(2, 3), "keep_dims": np.True_}
    same: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "reduce_l1_norm": lambda x: x.abs().sum((2, 3), keepdim=True),
        "reduce_l2_norm": lambda x: torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True),
        "reduce_log_sum_exp": lambda x: torch.logsumexp(x, (2, 3), keepdim=True),
        "reduce_max": lambda x: x.amax((2, 3), keepdim=True),
        "reduce_mean": lambda x: x.mean((2, 3), keepdim=True),
        "reduce_min": lambda x: x.amin((2, 3), keepdim=True),
        "reduce_prod": lambda x: x.prod(2, keepdim=True).prod(3, keepdim=True),
        "reduce_sum": lambda x: x.sum((2, 3), keepdim=True),
        "reduce_sum_square": lambda x: x.square().sum((2, 3), keepdim=True),
    }
    cases: list[Case] = [(name, {"x": X, **axes}, function(t(X)).numpy()) for name, function in same.items()]
    ties = np.array([[1, 3, 3], [2, 2, 0]], np.int32)
    return [
        *cases,
        ("reduce_sum", {"x": X}, X.sum(dtype=np.float64)),
        ("reduce_log_sum_exp", {"x": X, "axes": ints(1)}, torch.logsumexp(t(X), 1).numpy()),
        ("reduce_argmax", {"x": ties, "axis": ints(1)[0]}, ints(1, 0)),  # the first of equal ones
        ("reduce_argmin", {"x": ties, "axis": ints(1)[0], "keep_dims": np.True_}, [[0], [2]]),
    ]


def windows() -> list[Case]:
    return [
        *[convolution(*each) for each in CONVOLUTIONS],
        *[spreading(*each) for each in ((2, 2, 0), (3, 2, 1), (3, 1, 0))],
        ("max_pool", pool(3, 2, [1, 1, 1, 1]), F.max_pool2d(t(X), 3, 2, 1).numpy()),
        ("avg_pool", pool(3, 2, [1, 1, 1, 1]), F.avg_pool2d(t(X), 3, 2, 1).numpy()),
        (
            "avg_pool",
            {**pool(3, 2, [1, 1, 1, 1]), "exclude_padding_from_average": np.True_},
            F.avg_pool2d(t(X), 3, 2, 1, count_include_pad=False).numpy(),
        ),
        ("avg_pool", {"x": X, "kernel_sizes": ints(2, 2), "pad_type": "valid"}, F.avg_pool2d(t(X), 2, 1).numpy()),
    ]


# input, outputs, kernel, stride, padding, dilation, groups
CONVOLUTIONS = [
    (X, 4, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    (X, 4, (3, 3), (2, 2), (1, 1), (1, 1), 1),
    (X, 4, (3, 5), (1, 2), (2, 2), (2, 1), 2),
    (X, 6, (7, 7), (1, 1), (3, 3), (1, 1), 6),
    (X, 12, (3, 3), (2, 2), (1, 1), (1, 1), 6),  # two filters for each channel
    (X, 12, (3, 3), (1, 1), (1, 1), (1, 1), 3),
    (ROW, 6, (11,), (1,), (5,), (1,), 6),  # Text-RepMixer
    (ROW, 4, (3,), (2,), (1,), (1,), 1),
]


def convolution(
    x: np.ndarray,
    outputs: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Case:
    weight, bias = some(outputs, x.shape[1] // groups, *kernel), some(outputs)
    function = F.conv2d if x.ndim == 4 else F.conv1d
    inputs = {
        "x": x,
        "weight": weight,
        "bias": bias,
        "strides": ints(*stride),
        "pad_type": "custom",
        "pad": np.repeat(ints(*padding), 2),
        "dilations": ints(*dilation),
        "groups": np.int32(groups),
    }
    return "conv", inputs, function(t(x), t(weight), t(bias), stride, padding, dilation, groups).numpy()


def spreading(kernel: int, stride: int, pad: int) -> Case:
    weight, bias = some(6, 4, kernel, kernel), some(4)
    inputs = {"x": X, "weight": weight, "bias": bias, "strides": ints(stride, stride), "pad_type": "custom"}
    inputs |= {"pad": ints(pad, pad, pad, pad), "dilations": ints(1, 1), "groups": np.int32(1)}
    found = F.conv_transpose2d(t(X), t(weight), t(bias), stride, pad).numpy()
    return "conv_transpose", {**inputs, "output_shape": ints(*found.shape)}, found


def pool(size: int, stride: int, pad: list[int]) -> dict[str, object]:
    return {
        "x": X,
        "kernel_sizes": ints(size, size),
        "strides": ints(stride, stride),
        "pad_type": "custom",
        "pad": ints(*pad),
    }


def quantization() -> list[Case]:
    small = np.array([[-4, 3, 7, 0], [1, -8, 2, 5]], np.int8)
    scale, table = np.array([0.5, 2], np.float32), np.array([5, 6, 7, 8], np.float32)
    zero = np.array([1, -1], np.int8)
    zeros, scales = torch.zeros(6, dtype=torch.int32), torch.full((6,), 0.05)
    rounded = torch.fake_quantize_per_channel_affine(t(X[0]), scales, zeros, 0, -128, 127).numpy()
    eight = np.rint(rounded / np.float32(0.05)).astype(np.int8)
    per_channel = {"axis": ints(0)[0], "scale": np.full(6, 0.05, np.float32)}
    blocks, lut = np.array([[1, 2], [3, 4]], np.float32), some(2, 1, 4, 1)
    codes = np.array([[0, 3, 1, 2], [2, 2, 0, 1]], np.uint8)
    packed = np.array([0b11100100, 0b00000001], np.uint8)  # 0, 1, 2, 3, 1 in two bits, the lowest first
    return [
        ("quantize", {"input": X[0], "output_dtype": "int8", **per_channel}, eight),
        ("dequantize", {"input": eight, **per_channel}, rounded),
        ("quantize", {"input": X, "output_dtype": "uint8", "scale": np.float32(0.01), "zero_point": np.uint8(9)}, None),
        (
            "constexpr_affine_dequantize",
            {"quantized_data": small, "zero_point": zero, "scale": scale, "axis": ints(0)[0]},
            (small - zero[:, None]) * scale[:, None],
        ),
        (
            "constexpr_affine_dequantize",
            {"quantized_data": small, "zero_point": zero[0], "scale": scale[0], "axis": ints(0)[0]},
            (small - 1) * 0.5,
        ),
        ("constexpr_blockwise_shift_scale", {"data": small, "scale": blocks}, small * np.repeat(blocks, 2, 1)),
        (
            "constexpr_blockwise_shift_scale",
            {"data": small, "scale": blocks, "offset": np.ones((2, 2), np.int8)},
            (small - 1) * np.repeat(blocks, 2, 1),
        ),
        ("constexpr_lut_to_dense", {"indices": packed, "lut": table, "shape": ints(5)}, [5, 6, 7, 8, 6]),
        (
            "constexpr_lut_to_dense",
            {"indices": codes, "lut": lut},
            np.stack([lut[i, 0, codes[i], 0] for i in range(2)]),
        ),
        (
            "constexpr_sparse_to_dense",
            {"nonzero_data": table, "mask": np.array([0b10101010], np.uint8), "shape": ints(2, 4)},
            [[0, 5, 0, 6], [0, 7, 0, 8]],
        ),
        (
            "constexpr_sparse_to_dense",
            {"nonzero_data": table[:2], "mask": np.array([[0, 1], [1, 0]])},
            [[0, 5], [6, 0]],
        ),
        ("constexpr_cast", {"source_val": X, "output_dtype": "fp32"}, X),
    ]


def by_hand() -> dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]]:
    """What the cases without a ready value must give."""
    return {
        "cumsum": lambda given: t(given["x"]).flip(1).cumsum(1).flip(1).numpy() - given["x"],
        "pixel_shuffle": lambda given: F.pixel_shuffle(t(given["x"]), 2).numpy(),
        "quantize": lambda given: np.clip(np.rint(given["input"] / np.float32(0.01)) + 9, 0, 255),
        "prelu": lambda given: F.prelu(t(given["x"]), t(given["alpha"])).numpy(),
    }


CASES = [*unary(), *binary(), *shapes(), *products(), *reductions(), *windows(), *quantization()]


@pytest.mark.parametrize("case", CASES, ids=[f"{name}-{index}" for index, (name, _, _) in enumerate(CASES)])
def test_an_operation_gives_what_pytorch_gives(case: Case) -> None:
    name, inputs, expected = case
    if expected is None:
        expected = by_hand()[name](inputs)  # type: ignore[arg-type]
    found = OPERATIONS[name](**inputs)
    pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]  # type: ignore[arg-type]
    for mine, theirs in pairs:
        assert np.shape(mine) == np.shape(theirs)
        np.testing.assert_allclose(np.asarray(mine, np.float64), np.asarray(theirs, np.float64), rtol=2e-5, atol=2e-5)


def test_every_operation_has_a_case() -> None:
    assert {name for name, _, _ in CASES} == OPERATIONS.keys()


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("gelu", {"x": X, "mode": "QUICK"}, "gelu has no mode `QUICK`"),
        ("split", {"x": X, "axis": ints(1)[0]}, "split needs `num_splits` or `split_sizes`"),
        ("gather", {"x": X, "indices": ints(0), "batch_dims": ints(1)[0]}, "gather with batch_dims is not known here"),
        ("gather_nd", {"x": X, "indices": ints(0), "batch_dims": 1}, "gather_nd with batch_dims is not known here"),
        ("conv", {"x": X, "weight": some(1, 6, 1, 1), "pad_type": "odd"}, "no pad_type `odd`"),
        ("max_pool", {**pool(3, 2, [1, 1, 1, 1]), "ceil_mode": np.True_}, "pooling with ceil_mode is not known here"),
        ("conv_transpose", {"x": X, "weight": some(6, 4, 2, 2), "groups": 2}, "conv_transpose is known here in two"),
        (
            "conv_transpose",
            {"x": X, "weight": some(6, 4, 2, 2), "output_shape": ints(2, 4, 9, 10)},
            r"conv_transpose must give \(2, 4, 9, 10\); found \(2, 4, 9, 11\)",
        ),
        (
            "constexpr_lut_to_dense",
            {"indices": ints(0), "lut": some(1, 4, 2), "vector_axis": 0},
            r"tables of vectors are not known here \(vector_axis 0\)",
        ),
    ],
)
def test_what_is_not_known_is_refused(name: str, inputs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OPERATIONS[name](**inputs)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 8), (3, 2, 7), (2, 2, 7), (4, 3, 11)])
def test_same_padding_keeps_the_size_divided_by_the_stride(kernel: int, stride: int, size: int) -> None:
    x, weight = some(1, 1, size, size), np.ones((1, 1, kernel, kernel), np.float32)
    given: dict[str, object] = {"x": x, "weight": weight, "strides": ints(stride, stride)}
    same = OPERATIONS["conv"](**given, pad_type="same")
    lower = OPERATIONS["conv"](**given, pad_type="same_lower")
    assert isinstance(same, np.ndarray)
    assert isinstance(lower, np.ndarray)
    assert same.shape == lower.shape == (1, 1, -(-size // stride), -(-size // stride))
    mirrored = OPERATIONS["conv"](**{**given, "x": x[:, :, ::-1, ::-1]}, pad_type="same_lower")
    assert isinstance(mirrored, np.ndarray)
    if (size - 1) % stride == 0:  # the places fall on each other: what one adds behind, the other adds before
        np.testing.assert_allclose(same, mirrored[:, :, ::-1, ::-1], rtol=1e-5)
