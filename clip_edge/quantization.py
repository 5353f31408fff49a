"""What a lower precision did to a graph, layer by layer: written by the exporters, shown by `inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clip_edge.bundle import Bundle
from clip_edge.errors import BundleError
from clip_edge.files import json_bytes, parse_json
from clip_edge.schema import as_dict, build

SCHEMA = 1
SUFFIX = ".quantization.json"
MAX_BYTES = 16 * 1024 * 1024

# Where 8-bit products are added: "x86-vnni" and "arm" (with dot product) have instructions that add in 32 bits, "x86"
# adds pairs in 16 bits, and "any" is right on all of them.
Machine = Literal["any", "x86-vnni", "x86", "arm"]


@dataclass(frozen=True)
class Layer:
    """One layer with weights. `snr_db` is the power of its fp32 output over the power of its error, in decibels.

    `precision` is what the layer has in the graph, `reason` says why in words ("chosen", "identity tap: fp32", ...).
    """

    name: str
    op: str
    precision: str
    reason: str
    snr_db: float | None
    weight_bytes: int


@dataclass(frozen=True)
class Quantization:
    """The report of one artefact. `scheme` says in words what was done to weights and activations.

    `machine` is the kind of processor that the 8 bits of an ONNX graph were laid out for.
    """

    schema: int
    precision: str
    scheme: str
    calibration_images: int
    calibration_texts: int
    min_cosine: float  # to fp32 on the held-out part of the calibration data
    layers: tuple[Layer, ...]
    machine: Machine = "any"

    def to_bytes(self) -> bytes:
        """The file beside the graph."""
        return json_bytes(as_dict(self))


def read_quantization(data: bytes, where: Path) -> Quantization:
    """The report in a bundle.

    Raises:
        BundleError: it is no such report.
    """
    return build(Quantization, parse_json(data, where=where, error=BundleError), where=where, error=BundleError)


def read_reports(bundle: Bundle) -> dict[str, Quantization]:
    """Path of each artefact and graph in a lower precision -> its report; hashes are checked.

    Raises:
        BundleError: a report was changed, or is none.
    """
    found = {}
    items = [(item.path, item.quantization) for item in bundle.manifest.artifacts]
    items += [(item.path, item.quantization) for item in bundle.manifest.graphs]
    for path, report in items:
        if report is not None:
            found[path] = read_quantization(bundle.read(report, MAX_BYTES), bundle.folder / report)
    return found


def unfit(reports: Mapping[str, Quantization], here: Machine) -> list[str]:
    """What `reports` (path -> report) tell about graphs whose sums saturate on a machine of the class `here`."""
    if here != "x86":
        return []
    return [
        f"{path} was made with --machine {report.machine}, and this processor has no VNNI: its sums can saturate; "
        "export it with --machine x86"
        for path, report in reports.items()
        if report.machine in ("x86-vnni", "arm")
    ]


def worst_first(report: Quantization) -> list[Layer]:
    """The layers by signal-to-noise ratio, lowest first; those that were not measured come last."""
    return sorted(report.layers, key=lambda layer: (layer.snr_db is None, layer.snr_db or 0.0, layer.name))
