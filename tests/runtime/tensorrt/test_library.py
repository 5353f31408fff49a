"""Which TensorRT is taken: one that reads strongly typed graphs, or none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clip_edge.errors import UnavailableError
from clip_edge.runtime.tensorrt.library import FLAVOURS, open_library

pytest.importorskip("tensorrt_rtx_bindings")


def test_a_library_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """JetPack 5 brings 8.5, which reads a strongly typed graph as if it were weakly typed."""
    version = open_library("tensorrt-rtx").version
    monkeypatch.setitem(FLAVOURS, "tensorrt-rtx", replace(FLAVOURS["tensorrt-rtx"], oldest="99.10"))
    with pytest.raises(UnavailableError) as caught:
        open_library("tensorrt-rtx")
    assert caught.value.exit_code == 3
    assert caught.value.what == f"TensorRT-RTX 99.10 or newer expected; found {version}"
