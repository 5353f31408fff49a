"""What can be exported: one row per target. A target declares, its module writes, `runtime.verify` judges."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Literal

from clip_edge.bundle import Precision, Tower
from clip_edge.errors import ConfigError, UnavailableError, unknown_name
from clip_edge.graphs import GraphName, TensorType


@dataclass(frozen=True)
class Declaration:
    """The contract of one tower's graph: one input, one output, both with the batch first."""

    input: str
    input_dtype: Literal["float32", "uint8", "int64", "int32"]  # uint8: pixels before normalising
    output: str
    stem: str  # file name without precision and suffix


@dataclass(frozen=True)
class GraphDeclaration:
    """The contract of a graph for segmentation: named inputs with their types, named float32 outputs, batch first."""

    inputs: dict[str, TensorType]
    outputs: tuple[str, ...]
    stem: str


@dataclass(frozen=True)
class Target:
    """One kind of artefact. `module` has `write_tower(job, path)`; `backend` is the runtime that proves it here.

    A target with `graphs` has `write_graph(job, path)` too.
    """

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
    later_opsets: dict[Precision, int] = field(default_factory=dict)  # of precisions that need newer operations
    graphs: dict[GraphName, GraphDeclaration] = field(default_factory=dict)  # what segmentation runs one by one
    measured: frozenset[Precision] = frozenset()  # precisions whose ranges are measured on calibration data

    def opset_of(self, precision: Precision) -> int:
        """The operation set of a graph in that precision."""
        return self.later_opsets.get(precision, self.opset)

    @property
    def shared(self) -> bool:
        """Whether both towers are functions of one artefact."""
        return len({declaration.stem for declaration in self.towers.values()}) == 1


_TENSORRT_TOWERS: dict[Tower, Declaration] = {
    "image": Declaration("pixel_values", "float32", "image_embeds", "vision_model"),
    "text": Declaration("input_ids", "int32", "text_embeds", "text_model"),
}
_PROMPTED: dict[str, TensorType] = {"feature_map": "float32", "points": "float32", "labels": "int32"}
_TENSORRT_GRAPHS: dict[GraphName, GraphDeclaration] = {
    "encoder": GraphDeclaration({"pixel_values": "float32"}, ("feature_map",), "encoder"),
    "clip_head": GraphDeclaration({"feature_map": "float32"}, ("image_embeds", "patch_embeds"), "clip_head"),
    "mask_decoder": GraphDeclaration(_PROMPTED, ("mask_logits", "iou"), "mask_decoder"),
}
_TENSORRT_MEASURED: frozenset[Precision] = frozenset({"int8", "fp8"})
_COREML_MEASURED: frozenset[Precision] = frozenset({"w8a8"})
_COREML_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "w8a8", "pal6", "int4", "pal4")
TARGETS = {
    "onnx": Target(
        module="clip_edge.export.onnx",
        packages=("torch", "timm", "onnx", "onnxscript"),
        install="pip install 'clip-edge[export]'",
        backend="onnxruntime",
        folder="onnx",
        suffix=".onnx",
        precisions=("fp32", "fp16", "int8", "int4"),
        opset=18,  # the first with antialiased Resize, and what TensorRT 10.3 and every mobile runtime read
        later_opsets={"int8": 20, "int4": 21},  # Gelu as one operation; 4-bit weights in blocks
        measured=frozenset({"int8"}),
        batch=None,
        towers={  # names, file names and int64 ids as Hugging Face's tools expect them
            "image": Declaration("pixel_values", "float32", "image_embeds", "vision_model"),
            "text": Declaration("input_ids", "int64", "text_embeds", "text_model"),
        },
        graphs={
            "encoder": GraphDeclaration({"pixel_values": "float32"}, ("feature_map",), "encoder"),
            "clip_head": GraphDeclaration({"feature_map": "float32"}, ("image_embeds", "patch_embeds"), "clip_head"),
            "mask_decoder": GraphDeclaration(
                {"feature_map": "float32", "points": "float32", "labels": "int64"},
                ("mask_logits", "iou"),
                "mask_decoder",
            ),
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
        precisions=("fp32", "fp16", "int8", "fp8"),
        opset=19,  # the first with fp16 scales and 8-bit floats in Q/DQ; TensorRT 10.3 reads up to 20
        batch=None,
        towers=_TENSORRT_TOWERS,
        graphs=_TENSORRT_GRAPHS,
        measured=_TENSORRT_MEASURED,
        summary="TensorRT 10.3 to 11: strongly typed graphs and build plan; engines are built on the device",
    ),
    "trt-rtx": Target(
        module="clip_edge.export.tensorrt.rtx",
        packages=("torch", "timm", "onnx", "onnxscript", "tensorrt_rtx_bindings"),
        install="pip install 'clip-edge[export,trt-rtx]'",
        backend="onnxruntime",
        folder="trt-rtx",
        suffix=".onnx",
        precisions=("fp32", "fp16", "int8"),
        opset=19,
        batch=None,
        towers=_TENSORRT_TOWERS,
        graphs=_TENSORRT_GRAPHS,
        measured=_TENSORRT_MEASURED,
        summary="TensorRT-RTX: engines for desktop GPUs, built ahead of time on any machine",
    ),
    "coreml": Target(
        module="clip_edge.export.coreml",
        packages=("torch", "timm", "coremltools"),
        install="pip install 'clip-edge[export,coreml]'",
        backend="mil",  # runs the saved package on any system
        folder="coreml",
        suffix=".mlpackage",
        precisions=_COREML_PRECISIONS,
        measured=_COREML_MEASURED,
        opset=0,  # an ML program names its operation set itself, by the iOS it is for
        batch=1,
        towers={
            "image": Declaration("image", "uint8", "image_embeds", "VisionEncoder"),
            "text": Declaration("input_ids", "int32", "text_embeds", "TextEncoder"),
        },
        graphs={
            "encoder": GraphDeclaration({"image": "uint8"}, ("feature_map",), "Encoder"),
            "clip_head": GraphDeclaration({"feature_map": "float32"}, ("image_embeds", "patch_embeds"), "ClipHead"),
            "mask_decoder": GraphDeclaration(_PROMPTED, ("mask_logits", "iou"), "MaskDecoder"),
        },
        summary="Core ML: iPhone, iPad and Mac; pictures in, mean and std inside the graph",
    ),
    "coreml-multifunction": Target(
        module="clip_edge.export.coreml",
        packages=("torch", "timm", "coremltools"),
        install="pip install 'clip-edge[export,coreml]'",
        backend="mil",
        folder="coreml",
        suffix=".mlpackage",
        precisions=_COREML_PRECISIONS,
        measured=_COREML_MEASURED,
        opset=0,
        batch=1,
        towers={
            "image": Declaration("image", "uint8", "image_embeds", "CLIP"),
            "text": Declaration("input_ids", "int32", "text_embeds", "CLIP"),
        },
        summary="Core ML with both towers in one package, as the functions `image` and `text` (iOS 18)",
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
    return _path(target, target.towers[tower].stem, precision)


def graph_file_name(target: Target, graph: GraphName, precision: str) -> str:
    """The path of a graph for segmentation in a bundle: `onnx/encoder_int8.onnx`."""
    return _path(target, target.graphs[graph].stem, precision)


def _path(target: Target, stem: str, precision: str) -> str:
    suffix = "" if precision == "fp32" else f"_{precision}"
    return f"{target.folder}/{stem}{suffix}{target.suffix}"


def refuse_unmeasured(name: str, precision: Precision) -> None:
    """Raise ConfigError where no calibration data was given and the precision of target `name` measures on it."""
    if precision in TARGETS[name].measured:
        raise ConfigError(
            f"precision `{precision}` of target `{name}` measures ranges on your own data; none was given",
            hint="add --calibration DATA, pictures and sentences like those in use: random ranges would rank wrongly",
        )
