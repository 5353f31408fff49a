"""Outlines and embeddings of every place by the C library, equal to those of the Python runtime."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_edge.bundle import GOLDEN, MANIFEST, Bundle, list_files
from clip_edge.golden import read_golden
from clip_edge.preprocess import Bytes
from clip_edge.runtime import Prompt, load
from tests.runtime.native.conftest import Library, Model, onnxruntime_library

UNSUPPORTED, FORMAT, BACKEND, INVALID, SMALL = 9, 3, 5, 1, 7


class ViewInfo(ctypes.Structure):
    """clip_edge_view_info"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        *[(name, ctypes.c_int32) for name in ("width", "height", "map_width", "map_height", "has_masks")],
        *[(name, ctypes.c_float) for name in ("left", "top", "right", "bottom")],
    ]


class CPrompt(ctypes.Structure):
    """clip_edge_prompt"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("has_box", ctypes.c_int32),
        ("box", ctypes.c_float * 4),
        ("points", ctypes.POINTER(ctypes.c_float)),
        ("inside", ctypes.POINTER(ctypes.c_uint8)),
        ("point_count", ctypes.c_size_t),
    ]


class View:
    """A clip_edge_view of one model."""

    def __init__(self, model: Model, pixels: Bytes) -> None:
        self.model, self.c, self.handle = model, model.library.c, ctypes.c_void_p()
        image = model.library.image([pixels], pixels.shape[1], pixels.shape[0])
        self.status = self.c.clip_edge_look(model.session, ctypes.byref(image), ctypes.byref(self.handle))
        self.text = self.c.clip_edge_last_error().decode() if self.status else ""

    def info(self) -> ViewInfo:
        info = ViewInfo()
        size = ctypes.c_size_t(ctypes.sizeof(info))
        self.model.library.check(self.c.clip_edge_view_get_info(self.handle, ctypes.byref(info), size))
        return info

    def embed(self, dim: int) -> tuple[np.ndarray, np.ndarray]:
        info, size = self.info(), ctypes.c_size_t
        picture, places = np.empty(dim, np.float32), np.empty((dim, info.map_height, info.map_width), np.float32)
        outs = [(ctypes.c_void_p(array.ctypes.data), size(array.size)) for array in (picture, places)]
        self.model.library.check(self.c.clip_edge_view_embed(self.model.session, self.handle, *outs[0], *outs[1]))
        return picture, places

    def outline(self, prompt: Prompt, room: int | None = None) -> tuple[int, np.ndarray, float]:
        """Status, mask (H, W), and the IoU that the model expects of it."""
        info, given, iou = self.info(), CPrompt(), ctypes.c_float()
        self.c.clip_edge_prompt_init(ctypes.byref(given), ctypes.c_size_t(ctypes.sizeof(given)))
        if prompt.box is not None:
            given.has_box, given.box = 1, (ctypes.c_float * 4)(*prompt.box)
        flat = [value for point in prompt.points for value in point]
        points, inside = (ctypes.c_float * len(flat))(*flat), (ctypes.c_uint8 * len(prompt.inside))(*prompt.inside)
        given.points = ctypes.cast(points, ctypes.POINTER(ctypes.c_float))
        if prompt.inside:
            given.inside = ctypes.cast(inside, ctypes.POINTER(ctypes.c_uint8))
        given.point_count = len(prompt.points)
        mask = np.empty((info.height, info.width), np.uint8)
        room_bytes = ctypes.c_size_t(mask.size if room is None else room)
        to = ctypes.c_void_p(mask.ctypes.data)
        call = self.c.clip_edge_outline
        status = call(self.model.session, self.handle, ctypes.byref(given), to, room_bytes, ctypes.byref(iou))
        return status, mask, iou.value


@pytest.fixture(name="model")
def _model(library: Library, tiny_segment_bundle: Path) -> Model:
    return library.open(tiny_segment_bundle)


def prompts_of(width: int, height: int) -> list[Prompt]:
    """A point, a box, and both with a point beside the thing, all in the centred square."""
    left, top, side = (width - min(width, height)) / 2, (height - min(width, height)) / 2, min(width, height)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * side, top + y * side

    return [
        Prompt(points=(at(0.5, 0.5),)),
        Prompt(box=(*at(0.125, 0.25), *at(0.75, 0.875))),
        Prompt(box=(*at(0, 0), *at(1, 0.5)), points=(at(0.25, 0.25), at(0.75, 0.75)), inside=(True, False)),
    ]


def test_golden_pictures_are_outlined_alike(model: Model, tiny_segment_bundle: Path) -> None:
    manifest = Bundle.open(tiny_segment_bundle).manifest
    golden = read_golden((tiny_segment_bundle / GOLDEN).read_bytes(), manifest, tiny_segment_bundle)
    with load(tiny_segment_bundle, threads=1) as python:
        for pixels in golden.images:
            view, seen = View(model, pixels), python.look(pixels)
            prompts = prompts_of(pixels.shape[1], pixels.shape[0])
            for prompt in prompts:
                (expected,) = python.masks(seen, [prompt])
                status, mask, iou = view.outline(prompt)
                assert status == 0
                assert iou == pytest.approx(float(expected.iou.max()), abs=1e-4)
                assert ((mask == 255) == expected.mask).mean() >= 0.999  # a logit of 0 may round either way
                assert set(np.unique(mask)) <= {0, 255}
            picture, places = view.embed(manifest.embedding.dim)
            expected_places = python._segmenter.run("clip_head")({"feature_map": seen.feature_map})
            assert picture == pytest.approx(expected_places["image_embeds"][0], abs=1e-4)
            assert places == pytest.approx(expected_places["patch_embeds"][0], abs=1e-4)
            model.library.c.clip_edge_view_free(view.handle)


def test_a_view_knows_its_picture(model: Model) -> None:
    info = View(model, np.zeros((40, 60, 3), np.uint8)).info()
    assert (info.width, info.height, info.map_width, info.map_height, info.has_masks) == (60, 40, 4, 4, 1)
    assert (info.left, info.top, info.right, info.bottom) == (10, 0, 50, 40)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (Prompt(points=((61, 20),)), "the point 61,20 lies outside the picture, which has 60 x 40 pixels"),
        (Prompt(points=((5, 20),)), "the point lies outside the square that the model sees: x 10 to 50, y 0 to 40"),
        (Prompt(box=(20, 10, 20, 30)), "the box is empty"),
        (Prompt(box=(0, 0, 9, 9)), "the box lies outside the square that the model sees: x 10 to 50, y 0 to 40"),
        (Prompt(box=(20, 10, float("nan"), 30)), "the box is empty"),
        (Prompt(points=((float("inf"), 20),)), "the point inf,20 lies outside the picture"),
    ],
)
def test_prompts_outside_are_refused(model: Model, prompt: Prompt, words: str) -> None:
    view = View(model, np.zeros((40, 60, 3), np.uint8))
    status, _, _ = view.outline(prompt)
    assert status == INVALID
    assert words in view.c.clip_edge_last_error().decode()


def test_too_little_room_is_told(model: Model) -> None:
    view = View(model, np.zeros((40, 60, 3), np.uint8))
    assert view.outline(Prompt(points=((30, 20),)), room=10)[0] == SMALL
    assert view.c.clip_edge_last_error() == b"`mask` needs 2400 bytes, it has room for 10"


def test_bundles_without_graphs_say_so(library: Library, tiny_bundle: Path) -> None:
    view = View(library.open(tiny_bundle), np.zeros((40, 60, 3), np.uint8))
    assert view.status == UNSUPPORTED
    assert view.text.endswith("the bundle has no graph `encoder` for target `onnx`")


def test_damaged_bundles_have_their_codes(library: Library, tiny_segment_bundle: Path, tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    manifest = Bundle.open(tiny_segment_bundle).manifest
    shutil.copytree(tiny_segment_bundle, tmp_path / "bytes")
    path = tmp_path / "bytes" / "onnx" / "encoder.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert View(library.open(tmp_path / "bytes"), pixels).status == FORMAT
    shutil.copytree(tiny_segment_bundle, tmp_path / "other")  # a whole bundle whose encoder is another graph
    shutil.copy(tmp_path / "other" / "onnx" / "clip_head.onnx", tmp_path / "other" / "onnx" / "encoder.onnx")
    listed = dataclasses.replace(manifest, files=list_files(tmp_path / "other"))
    (tmp_path / "other" / MANIFEST).write_bytes(listed.to_bytes())
    assert View(library.open(tmp_path / "other"), pixels).status == BACKEND
    shutil.copytree(tiny_segment_bundle, tmp_path / "shape")  # a manifest that promises another size
    graphs = [dataclasses.replace(item) for item in manifest.graphs]
    output = dataclasses.replace(graphs[0].outputs[0], shape=(None, 16, 8, 8))
    graphs[0] = dataclasses.replace(graphs[0], outputs=(output,))
    (tmp_path / "shape" / MANIFEST).write_bytes(dataclasses.replace(manifest, graphs=tuple(graphs)).to_bytes())
    assert View(library.open(tmp_path / "shape"), pixels).status == BACKEND


def test_the_tool_writes_a_mask(cli_path: Path, tiny_segment_bundle: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.ppm")
    words = ["--image", str(tmp_path / "a.ppm"), "--box", "15,5,45,35", "--point", "30,20"]
    words += ["--out", str(tmp_path / "mask.pgm"), "--json", "-", "--onnxruntime", onnxruntime_library()]
    done = subprocess.run(
        [str(cli_path), "outline", str(tiny_segment_bundle), *words], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    mask = np.asarray(Image.open(tmp_path / "mask.pgm"))
    with load(tiny_segment_bundle, threads=1) as python:
        (expected,) = python.masks(pixels, [Prompt(box=(15, 5, 45, 35), points=((30, 20),))])
    assert ((mask == 255) == expected.mask).mean() >= 0.999
    assert said["iou"] == pytest.approx(float(expected.iou.max()), abs=1e-4)
    assert said["pixels"] == int((mask == 255).sum())
    refused = subprocess.run([str(cli_path), "outline", str(tiny_segment_bundle), *words[:4][:2]], capture_output=True)
    assert refused.returncode == 2
