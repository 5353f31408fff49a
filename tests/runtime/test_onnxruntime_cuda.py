"""The backend for CUDA where there is none: said in words, and never a silent fall back to the CPU."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest

from clip_edge.bundle import Bundle
from clip_edge.errors import UnavailableError
from clip_edge.runtime.backends import Options
from clip_edge.runtime.backends.onnxruntime_cuda import PROVIDER, is_found, open_tower


@pytest.mark.skipif(PROVIDER in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_a_build_without_cuda_is_refused(tiny_bundle: Path) -> None:
    assert not is_found()
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(UnavailableError, match=f"was built without {PROVIDER}") as problem:
        open_tower(bundle, bundle.manifest.artifact("image", ["onnx"]), Options())
    assert problem.value.exit_code == 3
