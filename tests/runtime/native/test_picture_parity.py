"""JPEG and PNG through libclip_edge and through Pillow: the same pixels, the same refusals, the same embeddings."""

from __future__ import annotations

import ctypes
import ctypes.util
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_edge import runtime
from clip_edge.errors import DataError
from clip_edge.images import open_image
from clip_edge.preprocess import PreprocessSpec, normalize, to_pixels

from . import pictures
from .conftest import Library

PICTURE_ERROR = 12

pytestmark = pytest.mark.skipif(
    not (ctypes.util.find_library("turbojpeg") and ctypes.util.find_library("png16")),
    reason="libturbojpeg and libpng16 decode pictures for the native library; they are not installed",
)


@pytest.fixture(scope="module")
def files() -> list[tuple[str, bytes]]:
    return list(pictures.every_kind(500))


def refusal(library: Library, file: bytes) -> str:
    out, image = np.empty((8, 8, 3), np.uint8), library.encoded(file)
    arguments = ctypes.byref(library.spec(PreprocessSpec(8))), ctypes.byref(image)
    status = library.c.clip_edge_resize_image(*arguments, ctypes.c_void_p(out.ctypes.data), ctypes.c_size_t(out.size))
    assert status == PICTURE_ERROR
    return library.c.clip_edge_last_error().decode()


def test_500_pictures_have_pillows_bytes(library: Library, files: list[tuple[str, bytes]]) -> None:
    specs = [
        PreprocessSpec(32),
        PreprocessSpec(57, resize="squash", interpolation="bilinear"),
        PreprocessSpec(16, interpolation="bilinear"),
    ]
    for index, (name, file) in enumerate(files):
        spec = specs[index % len(specs)]
        np.testing.assert_array_equal(
            library.resize(spec, library.encoded(file)), to_pixels(open_image(file), spec), name
        )


def test_500_pictures_have_pythons_embeddings(
    library: Library, tiny_bundle: Path, files: list[tuple[str, bytes]]
) -> None:
    python, native = runtime.load(tiny_bundle, threads=1), library.open(tiny_bundle)
    expected = python.encode_images([file for _, file in files])
    found = native.images([library.encoded(file) for _, file in files], expected.shape[1])
    assert float(np.min(np.sum(found * expected, axis=1))) >= 0.9999
    native.close()


def test_normalised_floats_are_identical(library: Library, files: list[tuple[str, bytes]]) -> None:
    spec = PreprocessSpec(24, mean=(0.48, 0.45, 0.4), std=(0.26, 0.26, 0.27))
    for _, file in files[:20]:
        expected = normalize(to_pixels(open_image(file), spec), spec)
        np.testing.assert_array_equal(library.preprocess(spec, library.encoded(file)), expected)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("little", [True, False])
def test_orientation_in_any_byte_order(library: Library, orientation: int, little: bool) -> None:
    order = "<" if little else ">"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = (b"II*\0" if little else b"MM\0*") + struct.pack(order + "IH", 8, 1) + entry + bytes(4)
    file = io.BytesIO()
    pictures.scene(np.random.default_rng(orientation)).save(file, "JPEG", exif=b"Exif\0\0" + tiff)
    spec = PreprocessSpec(20, resize="squash")
    expected = to_pixels(open_image(file.getvalue()), spec)
    np.testing.assert_array_equal(library.resize(spec, library.encoded(file.getvalue())), expected)


@pytest.mark.parametrize("note", [b'<x tiff:Orientation="6"/>', b"<tiff:Orientation>8<", b"tiff:Orientation='6'", b""])
def test_orientation_in_xmp(library: Library, note: bytes) -> None:
    file = io.BytesIO()
    pictures.scene(np.random.default_rng(4)).save(file, "JPEG", xmp=note)
    spec = PreprocessSpec(20, resize="squash")
    expected = to_pixels(open_image(file.getvalue()), spec)
    np.testing.assert_array_equal(library.resize(spec, library.encoded(file.getvalue())), expected)


def whole(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 50, 3), np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_cut_file_is_refused_on_both_sides(library: Library, kind: str, share: float) -> None:
    file = whole(kind)
    file = file[: int(share * len(file))]
    with pytest.raises(DataError):
        open_image(file)
    assert "it is cut off" in refusal(library, file) or "cut off: it" in refusal(library, file)


def test_refusals_say_why(library: Library) -> None:
    png, jpeg = whole("PNG"), whole("JPEG")
    frame = jpeg.index(b"\xff\xc0")
    assert refusal(library, b"") == "the picture is empty (0 bytes)"
    assert refusal(library, b"GIF89a") == "neither JPEG nor PNG"
    bomb = png[:16] + struct.pack(">II", 60000, 60000) + png[24:]
    limits = "sides of 1..65535 pixels and at most 100000000 in all are read"
    assert refusal(library, bomb) == f"the picture's size is 60000 x 60000: {limits}"
    bomb = jpeg[: frame + 5] + struct.pack(">HH", 65535, 65535) + jpeg[frame + 9 :]
    assert refusal(library, bomb) == f"the picture's size is 65535 x 65535: {limits}"
    deep = jpeg[: frame + 4] + b"\x0c" + jpeg[frame + 5 :]
    assert refusal(library, deep) == "a JPEG of 12 bits a channel is not read, only 8"
    two = jpeg[: frame + 9] + b"\x02" + jpeg[frame + 10 :]
    assert refusal(library, two) == "a JPEG of 2 channels is not read, only 1, 3 or 4"
    assert refusal(library, jpeg[:-2]) == "the JPEG is cut off: it has no end"
    at = png.index(b"IDAT")
    broken = png[: at + 4] + b"\0" + png[at + 5 :]
    assert refusal(library, broken).startswith("the PNG cannot be decoded: ")


def test_files_are_named_in_refusals(library: Library, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "good.png").write_bytes(whole("PNG"))
    for name, message in (
        ("empty.jpg", "the picture is empty (0 bytes)"),
        ("missing.jpg", "cannot read the picture: No such file or directory"),
        (".", "not a regular file"),
    ):
        image = library.image([], 0, 0, 9)
        image.path = str(tmp_path / name).encode()
        with pytest.raises(AssertionError, match=f"{tmp_path / name}".replace(".", r"\.")) as problem:
            library.resize(PreprocessSpec(8), image)
        assert str(problem.value).startswith(f"{image.path.decode()}: {message}")
    image = library.image([], 0, 0, 9)
    image.path = str(tmp_path / "good.png").encode()
    expected = to_pixels(open_image(tmp_path / "good.png"), PreprocessSpec(8))
    np.testing.assert_array_equal(library.resize(PreprocessSpec(8), image), expected)


def test_a_bad_picture_among_many_is_counted(library: Library, tiny_bundle: Path) -> None:
    native = library.open(tiny_bundle)
    with pytest.raises(AssertionError, match=r"images\[1\]: neither JPEG nor PNG"):
        native.images([library.encoded(whole("PNG")), library.encoded(b"no")], 1 << 10)
    native.close()


def test_1000_damaged_pictures_end_in_a_status(library: Library) -> None:
    rng = np.random.default_rng(5)
    originals = [file for _, file in pictures.every_kind(60, seed=6)]
    spec, out, refused = library.spec(PreprocessSpec(16)), np.empty((16, 16, 3), np.uint8), 0
    for index in range(1000):
        file = bytearray(originals[index % len(originals)])
        for _ in range(int(rng.integers(1, 9))):
            at = int(rng.integers(0, len(file)))
            choice = int(rng.integers(0, 4))
            if choice == 0:
                file[at] = int(rng.integers(0, 256))
            elif choice == 1:
                del file[at : at + int(rng.integers(1, 50))]
            elif choice == 2:
                file[at:at] = file[at : at + 40]
            else:
                file[at : at + 2] = b"\xff\xff"
            file = file or bytearray(b"-")
        image = library.encoded(bytes(file), exact=bool(index % 2))
        to = ctypes.c_void_p(out.ctypes.data)
        status = library.c.clip_edge_resize_image(
            ctypes.byref(spec), ctypes.byref(image), to, ctypes.c_size_t(out.size)
        )
        assert status in (0, PICTURE_ERROR), library.c.clip_edge_last_error()
        refused += status != 0
        assert status == 0 or library.c.clip_edge_last_error()
    assert 100 < refused < 1000


def test_decoding_is_a_stage_of_its_own(library: Library, tiny_bundle: Path) -> None:
    native: Any = library.open(tiny_bundle)
    dim = runtime.load(tiny_bundle, threads=1).manifest.embedding.dim
    native.images([library.encoded(whole("JPEG"))], dim)
    prepare_ns, encode_ns, decode_ns = native.timings()
    assert min(prepare_ns, encode_ns, decode_ns) > 0
    native.texts(["a"], dim)
    assert native.timings()[2] == 0
    native.close()
