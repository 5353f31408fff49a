"""A model that peers know."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def bundle(tiny_open_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of `tiny_open_clip`."""
    from clip_edge.export.exporter import Request, export

    out = tmp_path_factory.mktemp("peers") / "bundle"
    export(f"open_clip:{tiny_open_clip}", [Request("onnx")], out)
    return out
