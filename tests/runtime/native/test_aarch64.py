"""The proofs of this folder once more on 64-bit Arm: cross-compiled, run under emulation.

`scripts/device-libraries` brings ONNX Runtime and the decoders of JPEG and PNG for it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_edge import runtime
from clip_edge.distill.models.tokenizers import clip_tokenizer, train_tokenizer
from clip_edge.images import open_image
from clip_edge.numerics import cosine_rows
from clip_edge.preprocess import PreprocessSpec, to_pixels
from clip_edge.tokenizer import Tokenizer

from . import pictures, test_preprocess_parity, test_small_jpeg, test_tokenizer_parity
from .conftest import ROOT, Library
from .remote import RemoteLibrary

LIBRARIES = ROOT / "build" / "aarch64-libraries"
SYSTEM = "/usr/aarch64-linux-gnu"  # where Debian's cross compiler keeps the C library
STRINGS = 20_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arm(library_path: Path) -> Iterator[RemoteLibrary]:
    """The library of this tree as an Arm process under qemu."""
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if shutil.which("aarch64-linux-gnu-g++") is None or qemu is None:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user (Debian's packages)")
    configure = ["cmake", "--preset", "aarch64"]
    for command in (configure, ["cmake", "--build", "--preset", "aarch64", "--target", "parity", "-j2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
    program = ROOT / "build" / "aarch64" / "runtime" / "tests" / "parity"
    command = [qemu, "-L", SYSTEM, "-E", f"LD_LIBRARY_PATH={LIBRARIES}", str(program)]
    library = RemoteLibrary(library_path, command, {}, LIBRARIES / "libonnxruntime.so.1")
    yield library
    library.close()


@pytest.fixture(scope="module")
def libraries() -> Path:
    if not (LIBRARIES / "libonnxruntime.so.1").exists():
        pytest.skip("needs ONNX Runtime and decoders for Arm: scripts/device-libraries")
    return LIBRARIES


def test_pixels_equal_pillow_to_the_last_bit(arm: RemoteLibrary) -> None:
    test_preprocess_parity.test_five_hundred_sizes_equal_pillow_to_the_last_bit(arm)
    test_preprocess_parity.test_extreme_and_equal_sizes(arm, (1500, 1100))
    test_preprocess_parity.test_transparency_lies_over_white_as_pillow_lays_it(arm)
    test_preprocess_parity.test_grey_equals_pillow(arm)
    test_preprocess_parity.test_normalised_floats_are_identical(arm)
    test_preprocess_parity.test_a_wider_stride_changes_nothing(arm)
    for orientation in range(1, 9):
        test_preprocess_parity.test_orientations_equal_pillow(arm, orientation)
    for matrix in range(3):
        test_preprocess_parity.test_camera_frames_follow_the_standard(arm, matrix)


def test_rows_of_ids_are_those_of_the_reference(arm: RemoteLibrary) -> None:
    texts = test_tokenizer_parity.corpus(STRINGS)
    trained = train_tokenizer(test_tokenizer_parity.names()[:8000], 2000, 32)
    for reference, some in ((clip_tokenizer(), texts), (trained, texts[::4])):
        assert different(arm, reference, some) == []
    test_tokenizer_parity.test_invalid_utf8_is_read_as_python_reads_it(arm, trained)


def different(arm: RemoteLibrary, reference: Tokenizer, texts: list[str]) -> list[str]:
    return test_tokenizer_parity.differing(arm.tokenizer(reference.json_bytes, reference.spec), reference, texts)


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2, "restart_marker_rows": 1}])
def test_large_jpegs_get_the_same_bytes(arm: RemoteLibrary, library: Library, options: dict[str, Any]) -> None:
    for kind in ("smooth", "noisy"):
        file = test_small_jpeg.jpeg(test_small_jpeg.picture(kind), **options)
        for size, _ in test_small_jpeg.SIZES[1:]:
            spec = PreprocessSpec(size)
            expected = library.resize(spec, library.encoded(file, exact=False))
            np.testing.assert_array_equal(arm.resize(spec, arm.encoded(file, exact=False)), expected)


def test_decoded_pictures_and_embeddings(arm: RemoteLibrary, tiny_bundle: Path, libraries: Path) -> None:
    files = [file for _, file in pictures.every_kind(500)]
    spec = PreprocessSpec(32)
    for file in files[::5]:
        np.testing.assert_array_equal(arm.resize(spec, arm.encoded(file)), to_pixels(open_image(file), spec))
    python, native = runtime.load(tiny_bundle, threads=1), arm.embedder(tiny_bundle)
    expected = python.encode_images(files)
    found = native.images([arm.encoded(file) for file in files], expected.shape[1])
    assert cosine_rows(found, expected).min() >= 0.9999
    texts = test_tokenizer_parity.corpus(500)
    expected = python.encode_texts(texts)
    assert cosine_rows(native.texts(texts, expected.shape[1]), expected).min() >= 0.9999
    with pytest.raises(AssertionError, match="the JPEG is cut off"):
        arm.resize(spec, arm.encoded(files[0][:-30] if files[0][:2] == b"\xff\xd8" else files[1][:-30]))
