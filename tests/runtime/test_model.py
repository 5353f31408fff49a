"""The Python runtime on a real bundle: every kind of input, threads, cache, timings and errors."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_edge import runtime
from clip_edge.benchmarks.workload import jpeg
from clip_edge.bundle import GOLDEN, Bundle
from clip_edge.errors import BundleError, DataError, UnavailableError, UsageError
from clip_edge.golden import Golden, read_golden
from clip_edge.runtime import model as model_module
from clip_edge.runtime.backends import BACKENDS, Backend
from clip_edge.runtime.model import CACHED_LABEL_SETS, Model, Picture


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Model:
    return runtime.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def golden(tiny_bundle: Path) -> Golden:
    return read_golden((tiny_bundle / GOLDEN).read_bytes(), Bundle.open(tiny_bundle).manifest, tiny_bundle)


def test_importing_the_runtime_loads_no_training_package() -> None:
    heavy = "('torch', 'timm', 'onnx', 'clip_edge.distill')"
    code = f"import sys, clip_edge.runtime; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_embeddings_are_the_reference(model: Model, golden: Golden) -> None:
    assert np.abs(model.encode_images(golden.images) - golden.image_embeds).max() < 1e-5
    assert np.abs(model.encode_texts(golden.texts) - golden.text_embeds).max() < 1e-5


def test_every_kind_of_picture_gives_the_same(model: Model, golden: Golden, tmp_path: Path) -> None:
    array = golden.images[0]
    picture = Image.fromarray(array)
    path = tmp_path / "picture.png"
    picture.save(path)
    rows = model.encode_images([array, picture, path, str(path), path.read_bytes(), array[:, ::-1][:, ::-1]])
    assert rows.shape == (6, 24)
    assert np.abs(rows - rows[0]).max() < 1e-6


def test_a_turned_picture_gives_the_same_as_the_upright_one(model: Model, golden: Golden) -> None:
    upright = Image.fromarray(golden.images[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    turned = Image.open(io.BytesIO(file.getvalue()))
    rows = model.encode_images([upright, file.getvalue(), turned])
    assert np.abs(rows - rows[0]).max() < 1e-6


def test_batches_do_not_change_the_numbers(model: Model, golden: Golden) -> None:
    together = model.encode_images(golden.images, batch_size=64)
    assert np.abs(model.encode_images(golden.images, batch_size=1) - together).max() < 1e-6
    assert np.abs(model.encode_images(golden.images, batch_size=5) - together).max() < 1e-6
    assert np.abs(model.encode_texts(golden.texts, batch_size=3) - golden.text_embeds).max() < 1e-5


def test_nothing_gives_no_rows(model: Model) -> None:
    assert model.encode_images([]).shape == (0, 24)
    assert model.encode_texts([]).shape == (0, 24)


def test_rows_have_length_one(model: Model) -> None:
    assert np.abs(np.linalg.norm(model.encode_texts(["a", "", "苹果" * 50]), axis=1) - 1).max() < 1e-5


def test_classify_is_a_softmax_of_scaled_cosines(model: Model, golden: Golden) -> None:
    labels, templates = ["cat", "dog", "red apple"], ["a {}", "a picture of {}"]
    shares = model.classify(golden.images[:4], labels, templates)
    prompts = [template.format(label) for label in labels for template in templates]
    mean = model.encode_texts(prompts).reshape(3, 2, -1).mean(1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    logits = model.manifest.embedding.logit_scale * model.encode_images(golden.images[:4]) @ mean.T
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert shares.shape == (4, 3)
    assert np.allclose(shares, expected, atol=1e-5)
    assert np.allclose(shares.sum(1), 1, atol=1e-6)


def test_label_embeddings_are_kept_and_safe_to_change(model: Model) -> None:
    first = model.encode_labels(["one", "two"])
    assert "tokenise" in model.timings
    model.encode_images([])
    first[:] = 0
    second = model.encode_labels(["one", "two"])
    assert "tokenise" not in model.timings  # so nothing was tokenised again
    assert np.abs(np.linalg.norm(second, axis=1) - 1).max() < 1e-5


def test_the_cache_of_labels_is_bounded(model: Model) -> None:
    for i in range(CACHED_LABEL_SETS + 5):
        model.encode_labels([f"label {i}"])
    assert len(model._labels) == CACHED_LABEL_SETS


def test_braces_in_labels_are_no_templates(model: Model) -> None:
    assert model.encode_labels(["{0}", "{}", "a {b"], ["x {} y"]).shape == (3, 24)


def test_pictures_are_read_on_several_threads(
    tiny_bundle: Path, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [jpeg(picture) for picture in golden.images[:20]]
    seen: set[int] = set()
    both = threading.Barrier(2, timeout=60)
    real = model_module._read

    def read(picture: Picture, index: int) -> Image.Image:
        if index < 2:
            both.wait()  # nobody comes by alone
        seen.add(threading.get_ident())
        return real(picture, index)

    with runtime.load(tiny_bundle, threads=1) as alone, runtime.load(tiny_bundle, threads=2) as two:
        expected = alone.encode_images(pictures)
        monkeypatch.setattr(model_module, "_read", read)
        assert np.abs(two.encode_images(pictures) - expected).max() < 1e-6
        assert len(seen) == 2
        assert 0 < two.timings["decode"] + two.timings["preprocess"] + two.timings["encode"] < 60


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_picture_that_cannot_be_read_is_named(tiny_bundle: Path, golden: Golden, threads: int) -> None:
    pictures: list[Picture] = [jpeg(picture) for picture in golden.images[:6]]
    pictures[2], pictures[4] = b"nonsense", b""
    with runtime.load(tiny_bundle, threads=threads) as model:
        with pytest.raises(DataError) as problem:
            model.encode_images(pictures)
        assert problem.value.where == "images[2]"
        assert len(model.encode_images(pictures[:2])) == 2  # and the model goes on


def test_timings_name_their_stages(model: Model, golden: Golden) -> None:
    model.encode_images(golden.images)
    assert set(model.timings) == {"decode", "preprocess", "encode"}
    assert all(seconds > 0 for seconds in model.timings.values())
    model.encode_texts(["a"])
    assert set(model.timings) == {"tokenise", "encode"}


def test_threads_share_one_model(model: Model, golden: Golden) -> None:
    expected = model.encode_images(golden.images), model.encode_texts(golden.texts)

    def work(i: int) -> float:
        if i % 2:
            return float(np.abs(model.encode_images(golden.images) - expected[0]).max())
        return float(np.abs(model.encode_texts(golden.texts) - expected[1]).max())

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(work, range(24))) < 1e-6


def test_one_tower_alone(tiny_bundle: Path) -> None:
    with runtime.load(tiny_bundle, threads=1, towers=["image"]) as model:
        assert model.encode_images([np.zeros((4, 4, 3), np.uint8)]).shape == (1, 24)
        with pytest.raises(UsageError, match="the text tower is not loaded"):
            model.encode_texts(["a"])
    with pytest.raises(UsageError, match="the image tower is not loaded"):
        model.encode_images([])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode_images(b"one"), "encode_images takes a list of pictures; found one"),
        (lambda m: m.encode_texts("one"), "the tokenizer takes a list of sentences; found one string"),
        (lambda m: m.encode_labels([]), "at least one label and one template are needed"),
        (lambda m: m.encode_labels(["a"], ["no place"]), "a template without `{}`: `no place`"),
    ],
)
def test_misuse_is_explained(model: Model, call: object, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        call(model)  # type: ignore[operator]
    assert caught.value.what == message


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_wrong_arrays_are_named_by_their_place(model: Model, array: np.ndarray) -> None:
    with pytest.raises(DataError) as caught:
        model.encode_images([np.zeros((4, 4, 3), np.uint8), array])
    assert caught.value.where == "images[1]"
    assert caught.value.what.startswith("an array of uint8 and shape (height, width, 3) expected; found ")


def test_broken_bytes_are_named_by_their_place(model: Model) -> None:
    with pytest.raises(DataError) as caught:
        model.encode_images([b""])
    assert str(caught.value).startswith("the picture is empty (0 bytes)\n  in: images[0]")


def test_unknown_backend_names_the_nearest(tiny_bundle: Path) -> None:
    with pytest.raises(UsageError) as caught:
        runtime.load(tiny_bundle, "onnxruntme")
    known = ", ".join(sorted(BACKENDS))
    assert str(caught.value) == f"unknown backend: `onnxruntme`\n\nhint: did you mean `onnxruntime`? known: {known}"


def test_missing_package_says_how_to_install(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ghost = Backend("clip_edge.ghost", "onnx", "no_such_engine", "pip install no-such-engine", "a ghost")
    monkeypatch.setitem(BACKENDS, "ghost", ghost)
    with pytest.raises(UnavailableError) as caught:
        runtime.load(tiny_bundle, "ghost")
    assert caught.value.exit_code == 3
    assert str(caught.value) == (
        "backend `ghost` needs the package `no_such_engine`, which is not installed\n\nhint: pip install no-such-engine"
    )


def test_wrong_threads(tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match="`threads` must be at least 1; found 0"):
        runtime.load(tiny_bundle, threads=0)


def test_a_changed_graph_is_refused_before_it_is_loaded(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    path = bundle / "onnx" / "text_model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"onnx/text_model\.onnx was changed"):
        runtime.load(bundle)
    runtime.load(bundle, trusted=True).close()  # a weight's lowest bit: only the hash knows
    with runtime.load(bundle, towers=["image"]) as model:  # what is not used is not read
        assert model.encode_images([]).shape == (0, 24)
