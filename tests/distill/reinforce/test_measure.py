"""Sizes of stored knowledge: what is counted is there, and DataCompDR's members hold at least the embeddings."""

from __future__ import annotations

from pathlib import Path

from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.reinforce.engine import Options, Work
from clip_edge.distill.reinforce.measure import reading, size
from clip_edge.distill.reinforce.reader import open_reinforced


def test_sizes_and_rates_of_real_sidecars(made: tuple[Work, Path], options: Options) -> None:
    dataset = open_dataset(options.data)
    known = open_reinforced(dataset, made[1])
    found = size(known, dataset, [0, 9])
    files = (made[1] / "train").glob("*.safetensors")
    assert found["bytes"] * 23 == sum(path.stat().st_size for path in files)
    assert (found["augmentations"], found["captions"], found["dtype"]) == (3, 3, "bf16")
    assert found["datacompdr_bytes"] > (3 + 3) * sum(found["dimensions"]) * 2
    rates = reading(known, dataset, [0, 9])
    assert min(rates.values()) > 0
