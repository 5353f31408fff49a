"""Examples of what a graph reads, whatever the number of its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

AT_ONCE = 4  # all activations of a layer are held together


class Rows:
    """N examples: an array for each input of the graph by name, batch first."""

    def __init__(self, inputs: Mapping[str, np.ndarray]) -> None:
        self.inputs = dict(inputs)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __getitem__(self, chosen: slice | np.ndarray) -> Rows:
        return Rows({name: array[chosen] for name, array in self.inputs.items()})

    def batches(self, at_once: int = AT_ONCE) -> Iterator[dict[str, np.ndarray]]:
        """A few examples at a time, in order."""
        for start in range(0, len(self), at_once):
            yield self[start : start + at_once].inputs
