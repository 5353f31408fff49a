"""coremltools without its noise: it tells about every other framework it could not use, and draws its own bars."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

# Frameworks that coremltools imports to convert from them; leaving them out takes 20 of 50 s off its own import.
UNUSED = ("executorch", "libsvm", "sklearn", "tensorflow", "torchao", "torchaudio", "transformers", "xgboost")


def coremltools() -> Any:
    """The package, imported once and quietly."""
    if "coremltools" not in sys.modules:
        with quiet(), _without(UNUSED):
            import coremltools  # noqa: F401
    return sys.modules["coremltools"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No bars, no advice on versions, no warnings about code that is not ours. What is made is checked instead."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR + 1)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def forget_frames(problem: BaseException) -> None:
    """Let go of what the failed calls held: coremltools' temporary folders, whose end would warn elsewhere."""
    with quiet():
        error: BaseException | None = problem
        while error is not None:
            traceback.clear_frames(error.__traceback__)
            error = error.__cause__ or error.__context__


@contextlib.contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Make packages that are not loaded yet look as if they were not installed."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # what Python itself uses to say "not there"
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
