"""What can be exported: one row per target. A target declares, its module writes, `runtime.verify` judges."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

from clip_edge.bundle import Precision, Tower
from clip_edge.errors import ConfigError, UnavailableError, unknown_name


@dataclass(frozen=True)
class Declaration:
    """The contract of one tower's graph: one input, one output, both with the batch first."""

    input: str
    input_dtype: Literal["float32", "int64", "int32"]
    output: str
    stem: str  # file name without precision and suffix


@dataclass(frozen=True)
class Target:
    """One kind of artefact. `module` has `write_tower(job, path)`; `backend` is the runtime that proves it here."""

    module: str
    packages: tuple[str, ...]
    install: str
    backend: str
    folder: str
    suffix: str
    precisions: tuple[Precision, ...]
    opset: int
    batch: int | None  # None: dynamic
    towers: dict[Tower, Declaration]
    summary: str


_TENSORRT_TOWERS: dict[Tower, Declaration] = {
    "image": Declaration("pixel_values", "float32", "image_embeds", "vision_model"),
    "text": Declaration("input_ids", "int32", "text_embeds", "text_model"),
}
TARGETS = {
    "onnx": Target(
        module="clip_edge.export.onnx",
        packages=("torch", "timm", "onnx", "onnxscript"),
        install="pip install 'clip-edge[export]'",
        backend="onnxruntime",
        folder="onnx",
        suffix=".onnx",
        precisions=("fp32",),
        opset=18,  # the first with antialiased Resize, and what TensorRT 10.3 and every mobile runtime read
        batch=None,
        towers={  # names, file names and int64 ids as Hugging Face's tools expect them
            "image": Declaration("pixel_values", "float32", "image_embeds", "vision_model"),
            "text": Declaration("input_ids", "int64", "text_embeds", "text_model"),
        },
        summary="ONNX, dynamic batch: servers, desktops, browsers, phones",
    ),
    "trt": Target(
        module="clip_edge.export.tensorrt.package",
        packages=("torch", "timm", "onnx", "onnxscript"),
        install="pip install 'clip-edge[export]'",
        backend="onnxruntime",  # runs the very graph that TensorRT will read
        folder="trt",
        suffix=".onnx",
        precisions=("fp32", "fp16"),
        opset=19,  # the first with fp16 scales and 8-bit floats in Q/DQ; TensorRT 10.3 reads up to 20
        batch=None,
        towers=_TENSORRT_TOWERS,
        summary="TensorRT 10.3 to 11: strongly typed graphs and build plan; engines are built on the device",
    ),
    "trt-rtx": Target(
        module="clip_edge.export.tensorrt.rtx",
        packages=("torch", "timm", "onnx", "onnxscript", "tensorrt_rtx_bindings"),
        install="pip install 'clip-edge[export,trt-rtx]'",
        backend="onnxruntime",
        folder="trt-rtx",
        suffix=".onnx",
        precisions=("fp32", "fp16"),
        opset=19,
        batch=None,
        towers=_TENSORRT_TOWERS,
        summary="TensorRT-RTX: engines for desktop GPUs, built ahead of time on any machine",
    ),
}


def find_target(name: str, precision: str) -> Target:
    """The target of that name, which must know `precision` and have its packages here.

    Raises:
        UsageError: no target of that name (the nearest is named).
        ConfigError: the target has no such precision (the nearest is named).
        UnavailableError: a package is not installed; the hint is the command that does.
    """
    if name not in TARGETS:
        raise unknown_name("target", name, TARGETS)
    target = TARGETS[name]
    if precision not in target.precisions:
        raise unknown_name(f"precision of target `{name}`", precision, target.precisions, error=ConfigError)
    for package in target.packages:
        if importlib.util.find_spec(package) is None:
            raise UnavailableError(
                f"target `{name}` needs the package `{package}`, which is not installed", hint=target.install
            )
    return target


def file_name(target: Target, tower: Tower, precision: str) -> str:
    """The path of an artefact in a bundle: `onnx/vision_model.onnx`, `onnx/vision_model_int8.onnx`."""
    suffix = "" if precision == "fp32" else f"_{precision}"
    return f"{target.folder}/{target.towers[tower].stem}{suffix}{target.suffix}"
