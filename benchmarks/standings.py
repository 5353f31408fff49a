"""Ours beside other tools, for each model, batch and number of threads: our fastest row that is right, and theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clip_edge.benchmarks.compare import compare_rows
from clip_edge.benchmarks.peers import PREFIX
from clip_edge.benchmarks.report import Row
from clip_edge.benchmarks.stats import Comparison

WORDS = {"faster": "first", "same": "level", "slower": "behind"}


@dataclass(frozen=True)
class Standing:
    """Our fastest row whose embeddings hold their tolerance, the fastest peer beside it, and the time of ours over
    the peer's, with a test."""

    ours: Row
    peer: Row
    change: Comparison

    @property
    def verdict(self) -> str:
        """`first`, `level` or `behind`."""
        return WORDS[self.change.verdict]


def standings(rows: Sequence[Row]) -> list[Standing]:
    """One for each group of rows that were measured side by side and hold a peer.

    A peer counts although it gives another embedding for some rows: it is not timed when it does for many.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        key = (row.bundle, row.tower, row.batch, row.threads, row.scenario, row.device)
        groups.setdefault(key, []).append(row)
    found = []
    for group in groups.values():
        peers = [row for row in group if row.backend.startswith(PREFIX)]
        right = [row for row in group if row not in peers and row.accuracy is not None and row.accuracy.passed]
        if peers and right:
            ours, peer = (min(side, key=lambda row: row.latency_s.p50) for side in (right, peers))
            found.append(Standing(ours, peer, compare_rows(peer, ours)))
    return found
