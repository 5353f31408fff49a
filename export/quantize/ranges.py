"""What values an activation takes on the user's data, and the range in which 8 bits hold them best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnxruntime as ort

from clip_edge.console import SILENT, Console
from clip_edge.errors import ExportError
from clip_edge.export.rows import AT_ONCE, Rows

SAMPLED = 2048  # values kept of each row and activation, evenly spaced; the extremes are kept exactly
SHRINK = np.linspace(1.0, 0.3, 36)  # ranges tried, as shares of the widest

Method = Literal["max", "mse", "percentile"]


@dataclass(frozen=True)
class Values:
    """What an activation held: its extremes and a sample of its values."""

    low: float
    high: float
    sample: np.ndarray


Range = tuple[float, float]
NOTHING: Range = (np.inf, -np.inf)


def observe(
    model: onnx.ModelProto, names: Sequence[str], rows: Rows, *, console: Console = SILENT
) -> dict[str, Values]:
    """Run the fp32 graph on `rows` and look at the activations `names`.

    Raises:
        ExportError: an activation is NaN or infinite.
    """
    ends = dict.fromkeys(names, NOTHING)
    seen: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for name, value, count in _activations(model, names, rows, AT_ONCE, console):
        ends[name] = _wider(ends[name], value)
        flat = value.reshape(-1)
        seen[name].append(flat[:: max(1, flat.size // (SAMPLED * count))].copy())
    _refuse_infinite(ends)
    return {name: Values(low, high, np.concatenate(seen.pop(name))) for name, (low, high) in ends.items()}


def extremes(
    model: onnx.ModelProto, names: Sequence[str], rows: Rows, *, console: Console = SILENT
) -> dict[str, Range]:
    """As `observe`, without samples and one row at a time: every activation of a large graph may be looked at."""
    ends = dict.fromkeys(names, NOTHING)
    for name, value, _ in _activations(model, names, rows, 1, console):
        ends[name] = _wider(ends[name], value)
    _refuse_infinite(ends)
    return ends


def _activations(
    model: onnx.ModelProto, names: Sequence[str], rows: Rows, at_once: int, console: Console
) -> Iterator[tuple[str, np.ndarray, int]]:
    """Each activation by name, of a few rows at a time, and how many: its first axis need not be theirs."""
    session = open_graph(model, names)
    with console.progress("measuring ranges", total=len(rows), unit="rows") as meter:
        for part in rows.batches(at_once):
            count = len(next(iter(part.values())))
            for name, value in zip(names, session.run(list(names), part), strict=True):
                yield name, value, count
            meter.advance(count)


def _wider(ends: Range, value: np.ndarray) -> Range:
    return float(np.minimum(ends[0], value.min())), float(np.maximum(ends[1], value.max()))  # NaN stays


def _refuse_infinite(ends: Mapping[str, Range]) -> None:
    for name, found in ends.items():
        if not np.isfinite(found).all():
            raise ExportError(
                f"the activation `{name}` is NaN or infinite in fp32",
                hint="a model that already overflows cannot be quantised; run `clip-edge eval` on it first",
            )


def choose_range(values: Values, method: Method, levels: int = 255, *, symmetric: bool = False) -> Range:
    """The range to spread `levels` steps over; it holds 0, so that padding and ReLU stay exact.

    `max` clips nothing; `percentile` clips one value in ten thousand on each side; `mse` takes the share of the
    widest range with the least squared error of rounding and clipping together (as Nagel et al. 2021, section 3.1).
    """
    low, high = min(0.0, values.low), max(0.0, values.high)
    if symmetric:
        high = max(-low, high)
        low = -high
    if method == "percentile":
        shares = (1.0 - 1e-4, 1e-4)
        cut_high, cut_low = (float(np.quantile(values.sample, share)) for share in shares)
        edge = max(abs(cut_low), abs(cut_high))
        return (
            (-min(high, edge), min(high, edge))
            if symmetric
            else (max(low, min(0, cut_low)), min(high, max(0, cut_high)))
        )
    if method == "mse":
        return _least_error(values.sample, low, high, levels)
    return low, high


def _least_error(sample: np.ndarray, low: float, high: float, levels: int) -> Range:
    if high == low:
        return low, high
    best, best_error = (low, high), np.inf
    for share in SHRINK:
        step = (high - low) * share / levels
        zero = np.round(-low * share / step)
        rounded = (np.clip(np.round(sample / step) + zero, 0, levels) - zero) * step
        error = float(np.square(rounded - sample, dtype=np.float64).sum())
        if error < best_error:
            best, best_error = (low * share, high * share), error
    return best


def open_graph(model: onnx.ModelProto, outputs: Sequence[str] = (), *, fuse: bool = True) -> ort.InferenceSession:
    """The graph in ONNX Runtime, on one thread: sums in one order, so the same choices on every machine.

    `outputs` are values to give instead of the graph's own. `fuse=False` computes every Q/DQ pair as it stands: the
    fused kernels of ONNX Runtime 1.32 misread scales in fp16, and know no 8-bit floats.
    """
    shown = model
    if outputs:
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        del shown.graph.output[:]
        shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    if not fuse:  # nor the last level of optimisation: it crashes on fp16 graphs (1.32)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
