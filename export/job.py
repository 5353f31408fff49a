"""What a target's module is given to write one tower, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from clip_edge.bundle import Precision, Tower
from clip_edge.console import Console
from clip_edge.export.calibration import Calibration
from clip_edge.export.rows import Rows
from clip_edge.export.sources import Exportable
from clip_edge.export.targets import Declaration, GraphDeclaration, Target
from clip_edge.graphs import GraphName
from clip_edge.quantization import Machine, Quantization

Prepare = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Normalised pictures (N, 3, S, S) -> what a graph for segmentation reads of them, by name."""


@dataclass(frozen=True)
class Job:
    """One tower for one target in one precision.

    `module` is the folded tower in evaluation mode, shared between jobs: a writer that changes it works on a copy.
    `example` is an input of batch 2 or more, because tracers take a batch of 1 for a constant.
    `calibration` is None when the user gave none: a precision that needs it refuses.
    `capabilities` are the GPUs that engines are built for ahead of time, as `sm89`; empty: the target's own choice.
    `ios` is the oldest iOS that must read a Core ML package; None: the usual one of the precision.
    `machine` is the kind of processor that 8 bits are laid out for, where a target knows more than one.
    `prepare` is set where the graph is no tower, but reads something else of the same pictures.
    """

    tower: Tower
    module: nn.Module
    example: Tensor  # (2, 3, S, S) float32, or (2, L) int64
    source: Exportable
    target: Target
    precision: Precision
    calibration: Calibration | None
    console: Console
    capabilities: tuple[str, ...] = ()
    ios: int | None = None
    machine: Machine = "any"
    prepare: Prepare | None = None

    def read(self, rows: np.ndarray) -> Rows:
        """What the graph reads of inputs of the tower: (N, 3, S, S) normalised pictures, or (N, L) ids."""
        if self.prepare is not None:
            return Rows(self.prepare(rows))
        return Rows({self.declaration.input: rows.astype(self.declaration.input_dtype, copy=False)})

    @property
    def declaration(self) -> Declaration:
        """Names and types of the graph's input and output."""
        return self.target.towers[self.tower]


@dataclass(frozen=True)
class GraphJob:
    """One graph for segmentation, for one target in one precision.

    `examples` are its inputs in the order of the declaration, of batch 2. `pictures` is the same graph as a job of the
    image tower: the module, the target, and what precisions are measured on and judged by.
    """

    graph: GraphName
    examples: tuple[Tensor, ...]
    pictures: Job

    @property
    def declaration(self) -> GraphDeclaration:
        """Names and types of the graph's inputs and outputs."""
        return self.pictures.target.graphs[self.graph]


WriteTower = Callable[[Job, Path], Quantization | None]
"""Writes the file or folder `path`; gives the report of what a lower precision did, None for fp32."""

WriteGraph = Callable[[GraphJob, Path], Quantization | None]
"""The same for a graph for segmentation."""
