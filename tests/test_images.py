"""Pictures as people have them: every mode, every orientation, and every way of being broken."""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_edge.errors import DataError, ExitCode
from clip_edge.images import ORIENTATION_TAG, as_rgb, open_image


def picture(width: int = 31, height: int = 17) -> Image.Image:
    """A picture whose four corners differ, so that every turn shows."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x * 8 % 256, y * 15 % 256, (x + y) * 5 % 256], -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def png(width: int, height: int, *, depth: int, colour: int, raw: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand: the depths and chunks that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels_chunk = chunk(b"IDAT", zlib.compress(raw))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + pixels_chunk + chunk(b"IEND", b"")


def transparent_key(values: tuple[int, ...]) -> bytes:
    data = struct.pack(f">{len(values)}H", *values)
    return struct.pack(">I", len(data)) + b"tRNS" + data + struct.pack(">I", zlib.crc32(b"tRNS" + data))


def refused(source: Path | bytes) -> DataError:
    with pytest.raises(DataError) as caught:
        open_image(source)
    assert caught.value.exit_code == ExitCode.USAGE == 2
    return caught.value


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "GIF", "WEBP", "JPEG"])
def test_every_format_gives_rgb_of_the_same_size(kind: str) -> None:
    image = open_image(encoded(picture(), kind))
    assert (image.mode, image.size) == ("RGB", (31, 17))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_pictures_keep_every_pixel(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a picture.xyz"  # the name says nothing, the bytes decide
    path.write_bytes(encoded(picture(), kind))
    assert np.array_equal(pixels(open_image(path)), pixels(picture()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = pixels(picture())
    stored = {  # how a camera held that way writes the upright scene
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored).astype(np.uint8)), exif=exif)
    assert np.array_equal(pixels(open_image(data)), upright)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_a_meaningless_orientation_is_ignored(value: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = value
    assert np.array_equal(pixels(open_image(encoded(picture(), exif=exif))), pixels(picture()))


def test_broken_exif_is_ignored() -> None:
    data = encoded(
        picture(), "JPEG", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\xff\xff\xff\xff" * 3
    )
    assert open_image(data).size == (31, 17)


def test_cmyk_is_converted() -> None:
    solid = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan: red
    for data in (encoded(solid, "TIFF"), encoded(solid, "JPEG", quality=100)):
        red, green, blue = pixels(open_image(data)).mean((0, 1))
        assert red > 250
        assert green < 5
        assert blue < 5


def test_adobe_cmyk_jpeg_is_not_inverted_twice() -> None:
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    adobe = b"\xff\xee\x00\x0eAdobe\x00d\x00\x00\x00\x00\x00"  # APP14, no colour transform
    marked = data if b"Adobe" in data else data[:2] + adobe + data[2:]
    assert tuple(pixels(open_image(marked)).mean((0, 1)) > 128) == (True, False, False)


def test_sixteen_bit_grey_keeps_the_high_byte_instead_of_clipping() -> None:
    deep = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        grey = pixels(open_image(encoded(Image.fromarray(deep), kind)))[0, :, 0]
        assert grey.tolist() == [0, 0, 1, 128, 255]


def test_sixteen_bit_colour_keeps_the_high_byte() -> None:
    raw = b"\0" + struct.pack(">6H", 0, 32768, 65535, 256, 255, 4660)
    assert pixels(open_image(png(2, 1, depth=16, colour=2, raw=raw))).tolist() == [[[0, 128, 255], [1, 0, 18]]]


def test_sixteen_bit_grey_with_a_transparent_value() -> None:
    raw = b"\0" + struct.pack(">2H", 1000, 2000)
    data = png(2, 1, depth=16, colour=0, raw=raw, extra=transparent_key((1000,)))
    assert pixels(open_image(data))[0, :, 0].tolist() == [255, 7]


def test_sixteen_bit_colour_with_a_transparent_value_is_read() -> None:
    raw = b"\0" + struct.pack(">6H", 0, 32768, 65535, 256, 255, 4660)
    data = png(2, 1, depth=16, colour=2, raw=raw, extra=transparent_key((0, 32768, 65535)))
    assert open_image(data).size == (2, 1)


def test_thirty_two_bit_pixels_are_refused() -> None:
    error = refused(encoded(Image.new("F", (4, 4), 0.5), "TIFF"))
    assert str(error) == (
        "pixels of mode `F` (32 bits) have no defined brightness range\n  in: bytes in memory\n"
        "\nhint: save the picture with 8 or 16 bits a channel"
    )


def test_one_bit_and_grey_become_rgb() -> None:
    flags = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("1")
    assert pixels(open_image(encoded(flags)))[..., 0].tolist() == [[0, 255], [255, 0]]
    assert pixels(open_image(encoded(Image.new("L", (3, 3), 77)))).tolist() == [[[77] * 3] * 3] * 3


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_over_white(mode: str) -> None:
    black = Image.new("LA", (3, 1), (0, 0)).convert(mode)
    black.putalpha(Image.fromarray(np.array([[0, 128, 255]], dtype=np.uint8)))
    assert pixels(open_image(encoded(black)))[0, :, 0].tolist() == [255, 127, 0]


def test_palette_with_transparency_lies_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    for options in ({"transparency": 0}, {"transparency": b"\x00\xff"}):
        data = encoded(image, **options)
        assert pixels(open_image(data)).tolist() == [[[255, 255, 255], [200, 100, 50]]]
    assert pixels(open_image(encoded(image))).tolist() == [[[10, 20, 30], [200, 100, 50]]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (9, 5), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixels(open_image(data))[0, 0].tolist() == [255, 0, 0]


def test_a_missing_picture_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    assert str(refused(path)) == f"no such picture\n  in: {path}\n\nhint: name an existing picture file"
    assert refused(tmp_path).what == "no such picture"


def test_an_empty_picture_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "empty.jpg"
    path.write_bytes(b"")
    assert str(refused(path)) == (
        f"the picture is empty (0 bytes)\n  in: {path}\n"
        "\nhint: the file is damaged or cut off: copy it again, or leave it out"
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_truncated_picture_is_refused(kind: str, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = encoded(noise, kind)
    path = tmp_path / "cut"
    path.write_bytes(whole[: len(whole) // 2])
    error = refused(path)
    assert error.where == str(path)
    assert error.hint is not None
    assert error.what.startswith(("the picture cannot be decoded: ", "not a picture that clip-edge reads"))


def test_a_truncated_jpeg_has_an_exact_message(tmp_path: Path) -> None:
    whole = encoded(picture(640, 480), "JPEG")
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole[:2000])
    error = refused(path)
    assert error.what == "the picture cannot be decoded: image file is truncated (11 bytes not processed)"
    assert error.hint == "the file is damaged or cut off: copy it again, or leave it out"


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("this is no picture, it is a shopping list")
    assert str(refused(path)) == (
        f"not a picture that clip-edge reads\n  in: {path}\n"
        "\nhint: known formats: JPEG, PNG, GIF, BMP, PPM, WEBP, TIFF, AVIF"
    )


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    rows = b"\0" * (40_000 // 8 + 1) * 40_000  # 200 MB, 195 kB once compressed: a real picture, black
    path.write_bytes(png(40_000, 40_000, depth=1, colour=0, raw=rows))
    assert str(refused(path)) == (
        f"the picture is too large: 1,600,000,000 pixels, at most 100,000,000 are read\n  in: {path}\n"
        "\nhint: make it smaller first, or leave it out"
    )


def test_a_bomb_without_pixels_gives_the_same_message() -> None:
    """So nothing was decoded: there is nothing to decode."""
    assert refused(png(40_000, 40_000, depth=1, colour=0, raw=b"")).what == (
        "the picture is too large: 1,600,000,000 pixels, at most 100,000,000 are read"
    )


def test_just_above_the_limit_is_refused_without_a_warning() -> None:
    assert refused(png(10_001, 10_000, depth=1, colour=0, raw=b"")).what == (
        "the picture is too large: 100,010,000 pixels, at most 100,000,000 are read"
    )


def test_ninety_million_pixels_give_no_warning() -> None:
    raw = (b"\0" + b"\xff" * (9600 // 8)) * 9600  # Pillow warns from 89 million on
    assert open_image(png(9600, 9600, depth=1, colour=0, raw=raw)).size == (9600, 9600)


def test_a_pillow_picture_is_taken_as_it_is() -> None:
    assert np.array_equal(pixels(as_rgb(picture())), pixels(picture()))


def test_threads_may_read_together(tmp_path: Path) -> None:
    data = encoded(picture(200, 100), "JPEG")
    expected = pixels(open_image(data))
    results: list[bool] = []

    def work() -> None:
        results.extend(np.array_equal(pixels(open_image(data)), expected) for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 200


SEEDS = [encoded(picture(), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM")]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_bytes_never_give_another_error(seed: bytes, data: st.DataObject) -> None:
    mutated = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 8))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(mutated)))
    with contextlib.suppress(DataError):
        assert open_image(bytes(mutated[:cut]), max_pixels=1_000_000).mode == "RGB"
