"""What a lower precision did to a graph, layer by layer: written by the exporters, shown by `inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_edge.errors import BundleError
from clip_edge.files import json_bytes, parse_json
from clip_edge.schema import as_dict, build

SCHEMA = 1
SUFFIX = ".quantization.json"
MAX_BYTES = 16 * 1024 * 1024


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
    """The report of one artefact. `scheme` says in words what was done to weights and activations."""

    schema: int
    precision: str
    scheme: str
    calibration_images: int
    calibration_texts: int
    min_cosine: float  # to fp32 on the held-out part of the calibration data
    layers: tuple[Layer, ...]

    def to_bytes(self) -> bytes:
        """The file beside the graph."""
        return json_bytes(as_dict(self))


def read_quantization(data: bytes, where: Path) -> Quantization:
    """The report in a bundle.

    Raises:
        BundleError: it is no such report.
    """
    return build(Quantization, parse_json(data, where=where, error=BundleError), where=where, error=BundleError)
