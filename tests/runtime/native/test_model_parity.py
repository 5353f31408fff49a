"""The same bundle through the native library and through Python; and what goes wrong, in words."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_edge import runtime
from clip_edge.benchmarks.workload import jpeg
from clip_edge.bundle import GOLDEN, Bundle
from clip_edge.files import sha256_bytes
from clip_edge.golden import Golden, read_golden
from clip_edge.numerics import cosine_rows


@pytest.fixture(scope="module")
def golden(tiny_bundle: Path) -> Golden:
    return read_golden((tiny_bundle / GOLDEN).read_bytes(), Bundle.open(tiny_bundle).manifest, tiny_bundle)


@pytest.fixture(scope="module")
def model(library: Any, tiny_bundle: Path) -> Any:
    return library.open(tiny_bundle)


def native_image(library: Any, pixels: np.ndarray, format: int = 0) -> Any:
    return library.image([pixels], pixels.shape[1], pixels.shape[0], format)


def test_golden_embeddings(library: Any, model: Any, golden: Golden) -> None:
    dim = golden.image_embeds.shape[1]
    images = model.images([native_image(library, image) for image in golden.images], dim)
    assert cosine_rows(images, golden.image_embeds).min() >= 0.9999
    assert cosine_rows(model.texts(list(golden.texts), dim), golden.text_embeds).min() >= 0.9999


def test_every_size_and_format_embeds_as_in_python(library: Any, model: Any, tiny_bundle: Path) -> None:
    source = np.random.default_rng(2)
    python = runtime.load(tiny_bundle, threads=1)
    pictures, native = [], []
    for i in range(60):
        height, width = (int(side) for side in source.integers(8, 200, 2))
        rgb = source.integers(0, 256, (height, width, 3), dtype=np.uint8)
        alpha = np.full((height, width, 1), 255, np.uint8)
        grey = np.ascontiguousarray(rgb[..., 0])
        stored = (rgb, rgb[..., ::-1], np.dstack([rgb, alpha]), np.dstack([rgb[..., ::-1], alpha]), grey)[i % 5]
        pictures.append(np.dstack([grey] * 3) if i % 5 == 4 else rgb)
        native.append(native_image(library, np.ascontiguousarray(stored), i % 5))
        native[-1].keep = stored = np.ascontiguousarray(stored)  # the C structure holds only a pointer
        native[-1].plane[0] = stored.ctypes.data
    found = model.images(native, python.manifest.embedding.dim)
    assert cosine_rows(found, python.encode_images(pictures)).min() >= 0.9999


def test_classification_and_timings(library: Any, model: Any, golden: Golden, tiny_bundle: Path) -> None:
    python = runtime.load(tiny_bundle, threads=1)
    labels, templates = ["cat", "дом", "苹果", "a b"], ["a photo of {}", "{}!"]
    found = model.classify(native_image(library, golden.images[0]), labels, templates)
    np.testing.assert_allclose(found, python.classify([golden.images[0]], labels, templates)[0], atol=1e-5)
    prepare_ns, encode_ns, _ = model.timings()
    assert prepare_ns > 0
    assert encode_ns > 0


def test_threads_share_a_model(library: Any, tiny_bundle: Path, golden: Golden) -> None:
    model, dim = library.open(tiny_bundle), golden.image_embeds.shape[1]
    expected = model.images([native_image(library, golden.images[0])], dim)

    def work(_: int) -> bool:
        other = type(model)(library, model.handle)
        same = all(
            np.array_equal(other.images([native_image(library, golden.images[0])], dim), expected) for _ in range(20)
        )
        library.c.clip_edge_session_free(other.session)
        return same

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))
    model.close()


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_pictures_are_read_on_the_threads_of_the_engine(
    library: Any, model: Any, golden: Golden, tiny_bundle: Path, threads: int
) -> None:
    dim = golden.image_embeds.shape[1]
    pictures = [library.encoded(jpeg(pixels)) for pixels in golden.images[:21]]
    opened = library.open(tiny_bundle, threads=threads)
    np.testing.assert_allclose(opened.images(pictures, dim), model.images(pictures, dim), atol=1e-6)
    prepare_ns, encode_ns, decode_ns = opened.timings()
    assert min(prepare_ns, encode_ns, decode_ns) > 0
    pictures[12] = pictures[15] = library.encoded(b"nonsense")
    with pytest.raises(AssertionError, match=r"^images\[12\]: "):
        opened.images(pictures, dim)
    assert opened.images(pictures[:2], dim).shape == (2, dim)  # and the session goes on
    opened.close()


def test_the_abort_callback_stops_a_batch(library: Any, model: Any, golden: Golden) -> None:
    calls = []
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _: calls.append(1) or len(calls) > 2)
    library.c.clip_edge_session_set_abort(model.session, callback, None)
    with pytest.raises(AssertionError, match="stopped by the abort callback"):
        model.images([native_image(library, golden.images[0])] * 100, golden.image_embeds.shape[1])
    library.c.clip_edge_session_set_abort(model.session, None, None)
    assert len(calls) == 3


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the manifest and state its new hash, as somebody with bad intentions would."""
    table = json.loads((folder / "manifest.json").read_bytes()) | changes | {"manifest_sha256": "0" * 64}
    plain = json.dumps(table, indent=2).encode()
    (folder / "manifest.json").write_bytes(plain.replace(b"0" * 64, sha256_bytes(plain).encode()))


def test_damage_is_told(library: Any, copy: Path, golden: Golden) -> None:
    picture, dim = native_image(library, golden.images[0]), golden.image_embeds.shape[1]
    graph = copy / "onnx" / "vision_model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + b"\0" if whole[-1] else whole[:-1] + b"\1")
    with pytest.raises(AssertionError, match=r"vision_model\.onnx: changed: its size or hash"):
        library.open(copy).images([picture], dim)
    with pytest.raises(AssertionError, match=r"vision_model\.onnx: changed"):
        library.open(copy).check_files()
    graph.unlink()
    with pytest.raises(AssertionError, match=r"vision_model\.onnx: missing file"):
        library.open(copy)
    graph.symlink_to("/etc/passwd")
    with pytest.raises(AssertionError, match=r"vision_model\.onnx: a link in the bundle"):
        library.open(copy)
    graph.unlink()
    graph.write_bytes(whole)
    library.open(copy).check_files()
    (copy / "onnx" / "note.txt").write_text("not listed")
    with pytest.raises(AssertionError, match=r"onnx/note\.txt: a file that the manifest does not list"):
        library.open(copy)


def test_hostile_manifests_are_refused(library: Any, copy: Path) -> None:
    with pytest.raises(AssertionError, match="No such file"):
        library.open(copy / "nothing")
    entry = {"sha256": "0" * 64, "bytes": 1}
    for name in ("../x", "/etc/passwd", "a//b", "a/../../b", "", "a\\b"):
        rewrite(copy, files={name: entry})
        with pytest.raises(AssertionError, match="a path leaves the bundle"):
            library.open(copy)
    rewrite(copy, schema=2)
    with pytest.raises(AssertionError, match="manifest schema 1 expected; found 2"):
        library.open(copy)
    rewrite(copy, schema=1, extra=1)
    with pytest.raises(AssertionError, match="unknown key: `extra`"):
        library.open(copy)


def test_a_thousand_mutations_of_the_manifest_end_in_a_status(library: Any, copy: Path) -> None:
    source, path = random.Random(1), copy / "manifest.json"
    whole = path.read_bytes()
    for _ in range(1000):
        damaged = bytearray(whole)
        for _ in range(source.randrange(1, 4)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        if source.random() < 0.2:
            del damaged[source.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        if damaged != whole:
            with pytest.raises(AssertionError, match=r"manifest\.json"):
                library.open(copy)


def test_a_missing_or_wrong_engine_is_told(library_path: Path, tiny_bundle: Path, golden: Golden) -> None:
    """In fresh processes: the first model of a process decides which library is opened."""
    import subprocess
    import sys

    code = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
import conftest, numpy as np
library = conftest.Library(Path(sys.argv[2]))
pixels = np.zeros((8, 8, 3), np.uint8)
try: library.open(Path(sys.argv[3]), onnxruntime=sys.argv[4]).images([library.image([pixels], 8, 8)], 24)
except AssertionError as problem: print(problem)
"""
    for engine, expected in (
        ("/nowhere/libonnxruntime.so", "cannot be opened"),
        (ctypes.util.find_library("z"), "not a library of"),
    ):
        command = [
            sys.executable,
            "-c",
            code,
            str(Path(__file__).parent),
            str(library_path),
            str(tiny_bundle),
            str(engine),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert expected in done.stdout


def test_precisions_are_chosen_by_name(library: Any, tiny_bundle: Path, golden: Golden) -> None:
    picture, dim = native_image(library, golden.images[0]), golden.image_embeds.shape[1]
    assert library.open(tiny_bundle, precision="fp32").images([picture], dim).shape == (1, dim)
    with pytest.raises(AssertionError, match="no image tower for target `onnx` in precision int3"):
        library.open(tiny_bundle, precision="int3").images([picture], dim)


def test_a_picture_file_is_embedded_as_its_pixels(library: Any, model: Any, golden: Golden, tmp_path: Path) -> None:
    """Python reads a PNG, the library gets the pixels: the two ways meet."""
    path = tmp_path / "picture.png"
    Image.fromarray(golden.images[1]).save(path)
    pixels = np.asarray(Image.open(path))
    found = model.images([native_image(library, pixels)], golden.image_embeds.shape[1])
    assert cosine_rows(found, golden.image_embeds[1:2]).min() >= 0.9999
