"""How long copies to and from a GPU took: the part of `encode` that a caller whose data lies there does not pay."""

from __future__ import annotations

import threading


class _Tally(threading.local):
    seconds = 0.0


_tally = _Tally()


def add(seconds: float) -> None:
    """What an engine says of a copy that it made for the calling thread."""
    _tally.seconds += seconds


def take() -> float:
    """Seconds that were added in this thread since the last call."""
    seconds, _tally.seconds = _tally.seconds, 0.0
    return seconds
