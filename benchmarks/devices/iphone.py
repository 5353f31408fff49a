"""What an iPhone measured: the JSON that the Xcode test in `runtime/examples/swift` attaches, as rows.

The file comes from outside, so its schema is checked; it has no bundle with it, so the bundle is named on the command
line and its manifest's hash must be the one that the phone saw.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from clip_edge.benchmarks.plan import Cell, Plan
from clip_edge.benchmarks.report import Device, Failure, Row
from clip_edge.benchmarks.rows import row_of
from clip_edge.bundle import Tower
from clip_edge.errors import DataError
from clip_edge.files import read_json
from clip_edge.schema import build

HINT = "the file is made by the test `ClipEdgeBench` in runtime/examples/swift"
STAGES = {"image": "preprocess", "text": "tokenise"}


@dataclass(frozen=True)
class PhoneRow:
    """One tower on the phone; seconds per query, one picture or sentence each."""

    tower: Tower
    precision: str
    threads: int
    samples_s: tuple[float, ...]
    prepare_s: float
    encode_s: float
    memory_bytes: int

    def __post_init__(self) -> None:
        if not self.samples_s or min(self.samples_s) <= 0:
            raise ValueError("`samples_s` must hold positive seconds")


@dataclass(frozen=True)
class PhoneReport:
    """The whole file. `before` and `after` say how the phone fared: thermal state, battery, low-power mode."""

    schema: Literal[1]
    model: str
    system: str
    manifest_sha256: str
    before: dict[str, str]
    after: dict[str, str]
    results: tuple[PhoneRow, ...]


def read_phone(path: Path, plan: Plan) -> tuple[str, list[Row], list[Failure], Device]:
    """The phone's name, its rows, what they lack, and the phone before and after.

    Raises:
        DataError: not such a file.
    """
    found = build(PhoneReport, read_json(path, error=DataError, hint=HINT), where=path, error=DataError, hint=HINT)
    name = f"{found.model}, {found.system}"
    device = Device({"model": found.model, "system": found.system, **found.before}, found.after)
    bundles = {bundle.manifest.manifest_sha256: key for key, bundle in plan.bundles.items()}
    if found.manifest_sha256 not in bundles:
        reason = f"measured another bundle than those given: its manifest has SHA-256 {found.manifest_sha256[:12]}…"
        return name, [], [Failure(name, reason)], device
    bundle = bundles[found.manifest_sha256]
    return name, [_row(row, bundle, plan, name) for row in found.results], [], device


def _row(row: PhoneRow, bundle: str, plan: Plan, device: str) -> Row:
    manifest = plan.bundles[bundle].manifest
    size = manifest.files[manifest.artifact(row.tower, ["onnx"], row.precision).path].bytes
    cell = Cell(bundle, row.tower, row.precision, "native", 1, row.threads, "single-stream")
    stages_s = {STAGES[row.tower]: row.prepare_s, "encode": row.encode_s}
    return replace(row_of(cell, row.samples_s, stages_s, row.memory_bytes, size, None), device=device)
