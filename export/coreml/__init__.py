"""Target `coreml`: a tower as an .mlpackage for a named iOS, checked without a Mac.

Order: trace -> MIL program -> fp16 with the operations in fp32 that need it -> weights (and activations) in fewer bits,
the worst layers kept higher until the tolerance holds -> three files with the same bytes every time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from weakref import WeakKeyDictionary

from torch import nn

from clip_edge.errors import ConfigError
from clip_edge.export.coreml import half, package, reduce
from clip_edge.export.coreml.convert import convert, trace
from clip_edge.export.coreml.interface import Interface, graph_interface, tower_interface
from clip_edge.export.coreml.judge import make_judge
from clip_edge.export.job import GraphJob, Job
from clip_edge.quantization import Quantization

# The first iOS that reads each precision, and the one taken when the user names none. A single palette for a whole
# tensor (all that iOS 16 and 17 have) loses much at four bits, so `pal4` asks for iOS 18 unless told otherwise.
LEAST_IOS = {"fp32": 16, "fp16": 16, "int8": 16, "pal6": 16, "pal4": 16, "w8a8": 17, "int4": 18}
USUAL_IOS = {**LEAST_IOS, "pal6": 18, "pal4": 18}

_BASES: WeakKeyDictionary[nn.Module, dict[int, half.Base]] = WeakKeyDictionary()  # by tower and iOS, while exporting


def write_tower(job: Job, path: Path) -> Quantization | None:
    """Write a tower as the package `path`, or as one more function of it when the target holds both towers in one.

    Raises:
        ConfigError: the precision needs a later iOS.
        ExportError: the tower cannot be traced, or needs what the operation set of this iOS has not.
    """
    files, report = _make(tower_interface(job))
    if job.target.shared:
        files = package.add_function(package.read_package(path) if path.exists() else None, job.tower, files)
    package.write_package(files, path)
    return report


def write_graph(job: GraphJob, path: Path) -> Quantization | None:
    """Write a graph for segmentation as the package `path`, for one picture and one prompt at a time.

    Raises:
        ConfigError, ExportError: as `write_tower`.
    """
    files, report = _make(graph_interface(job))
    package.write_package(files, path)
    return report


def choose_ios(precisions: tuple[str, ...], precision: str, ios: int | None, *, shared: bool) -> int:
    """The deployment target: the user's, or the usual one of this precision; packages of two functions need iOS 18.

    Raises:
        ConfigError: `ios` is too early for it; the hint names what works.
    """
    least = 18 if shared else LEAST_IOS[precision]
    if ios is None:
        return max(least, USUAL_IOS[precision])
    if ios < least:
        works = [] if shared else [name for name in precisions if LEAST_IOS[name] <= ios]
        what = "one package with both towers" if shared else f"precision `{precision}`"
        raise ConfigError(
            f"{what} needs iOS {least}; asked for iOS {ios}",
            hint=f"use --ios {least}" + (f", or what iOS {ios} reads: {', '.join(works)}" if works else ""),
        )
    return ios


def _make(face: Interface) -> tuple[Mapping[str, bytes], Quantization | None]:
    job = face.job
    ios = choose_ios(job.target.precisions, job.precision, job.ios, shared=job.target.shared)
    if job.precision == "fp32":
        return package.package_files(convert(face, trace(face), ios, None), face), None
    judge = make_judge(face)
    bases = _BASES.setdefault(job.module, {})  # the same fp16 model is where every lower precision begins
    if ios not in bases:
        bases[ios] = half.convert_half(face, trace(face), ios, judge)
    model, cosine, in_fp32 = bases[ios]
    files = package.package_files(model, face)
    if job.precision == "fp16":
        return files, half.report(job, files, cosine, in_fp32)
    return reduce.reduce(face, ios, judge, model, files)
