"""Core ML itself, through coremltools: on macOS only."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clip_edge.bundle import EXPORT_AGAIN, Artifact, Bundle
from clip_edge.errors import BundleError
from clip_edge.preprocess import Bytes, Floats
from clip_edge.runtime.backends import Options, Run
from clip_edge.runtime.backends.pixels import denormalize

MAX_FILE_BYTES = 4 * 1024**3


def is_found() -> bool:
    """Whether this is a Mac with coremltools."""
    return platform.system() == "Darwin" and importlib.util.find_spec("coremltools") is not None


def open_tower(bundle: Bundle, artifact: Artifact, options: Options) -> Run:
    """One tower as a function from its input array to (B, D) float32; rows of a larger batch run one by one.

    Core ML loads from a folder, so the files whose hashes were checked are copied to one of our own first.

    Raises:
        BundleError: a file was changed, or Core ML cannot load or run the package.
    """
    del options  # Core ML chooses its own threads and units
    folder = Path(tempfile.mkdtemp(prefix="clip-edge-"))
    try:
        model = _load(_copy(bundle, artifact, folder), artifact)
    except Exception as problem:  # Core ML's errors share no base class
        shutil.rmtree(folder, ignore_errors=True)
        raise _cannot("load", artifact, bundle, problem) from problem
    spec = bundle.manifest.image.preprocess

    def run(array: np.ndarray) -> Floats:
        rows = _pictures(denormalize(array, spec)) if artifact.tower == "image" else array.astype(np.int32)[:, None]
        try:
            found = [model.predict({artifact.input: row})[artifact.output] for row in rows]
        except Exception as problem:
            raise _cannot("run", artifact, bundle, problem) from problem
        embeds: Floats = np.concatenate(found).astype(np.float32)  # a copy: Core ML's own arrays pin shared memory
        return embeds

    weakref.finalize(run, shutil.rmtree, folder, ignore_errors=True)
    return run


def _pictures(pixels: Bytes) -> list[Image.Image]:
    return [Image.fromarray(np.ascontiguousarray(np.moveaxis(row, 0, -1))) for row in pixels]


def _copy(bundle: Bundle, artifact: Artifact, folder: Path) -> Path:
    for name in bundle.manifest.listed(artifact.path):
        path = folder / "tower.mlpackage" / name.removeprefix(f"{artifact.path}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bundle.read(name, MAX_FILE_BYTES))
    return folder / "tower.mlpackage"


def _load(path: Path, artifact: Artifact) -> Any:
    import coremltools

    functions = coremltools.models.utils.load_spec(str(path)).description.functions
    function = artifact.tower if artifact.tower in [each.name for each in functions] else None
    return coremltools.models.MLModel(str(path), function_name=function)


def _cannot(verb: str, artifact: Artifact, bundle: Bundle, problem: Exception) -> BundleError:
    reason = str(problem).strip().partition("\n")[0][:300]
    return BundleError(
        f"Core ML cannot {verb} {artifact.path}: {reason}", where=bundle.folder / artifact.path, hint=EXPORT_AGAIN
    )
