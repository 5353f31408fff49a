"""The two packages with one interface: TensorRT (servers, Jetson) and TensorRT-RTX (desktop GPUs)."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass, field
from typing import Any

from clip_edge.errors import UnavailableError
from clip_edge.runtime.tensorrt.plan import OLDEST

RTX_OLDEST = "1.4"
MAX_MESSAGES = 20


@dataclass(frozen=True)
class Flavour:
    """A library: the module of its bindings, the module that brings the shared objects, and how to get both."""

    title: str
    module: str
    libraries: str | None
    oldest: str
    install: str


FLAVOURS = {
    "tensorrt": Flavour(
        "TensorRT",
        "tensorrt",
        None,
        OLDEST,
        "pip install tensorrt; on a Jetson `sudo apt-get install python3-libnvinfer` and an environment made "
        "with `--system-site-packages`",
    ),
    "tensorrt-rtx": Flavour(
        "TensorRT-RTX",
        "tensorrt_rtx_bindings",
        "tensorrt_rtx_libs",
        RTX_OLDEST,
        "pip install 'clip-edge[trt-rtx]' (Linux on x86-64)",
    ),
}


@dataclass(frozen=True)
class Library:
    """A loaded library. `log` collects what it would print; `errors` takes the last of it."""

    name: str
    title: str
    version: str
    trt: Any
    log: Any = field(compare=False)

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT-RTX, which builds for named GPUs and needs no timing cache."""
        return self.name == "tensorrt-rtx"

    def last_error(self) -> str:
        """The last error that the library logged, in one line; forgotten afterwards."""
        messages, self.log.messages = self.log.messages, []
        return " ".join(messages[-1].split())[:400] if messages else "no reason given"


def is_installed(name: str) -> bool:
    """Whether the package of a flavour can be found here."""
    return importlib.util.find_spec(FLAVOURS[name].module) is not None


def open_library(name: str) -> Library:
    """Load `tensorrt` or `tensorrt-rtx`.

    Raises:
        UnavailableError: it is not installed, cannot be loaded, or is too old.
    """
    flavour = FLAVOURS[name]
    if not is_installed(name):
        raise UnavailableError(
            f"{flavour.title} needs the package `{flavour.module}`, which is not installed", hint=flavour.install
        )
    try:
        if flavour.libraries is not None and importlib.util.find_spec(flavour.libraries) is not None:
            importlib.import_module(flavour.libraries)
        trt = importlib.import_module(flavour.module)
    except (ImportError, OSError) as problem:
        raise UnavailableError(f"{flavour.title} cannot be loaded: {problem}", hint=flavour.install) from problem
    if numbers(trt.__version__) < numbers(flavour.oldest):
        raise UnavailableError(
            f"{flavour.title} {flavour.oldest} or newer expected; found {trt.__version__}",
            hint=f"older ones misread strongly typed graphs; {flavour.install}",
        )
    return Library(name, flavour.title, trt.__version__, trt, _log(trt))


def numbers(version: str) -> tuple[int, ...]:
    """`10.3.0.26` as numbers that compare."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # known at run time only
        """Keeps errors for the message of an exception: a library does not write to stderr."""

        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.messages = [*self.messages[1 - MAX_MESSAGES :], message]

    return Log()
