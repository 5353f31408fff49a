"""DataCompDR shards, in both layouts, as sidecars."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, autoaugment
from torchvision.transforms import functional as F

from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.reinforce.augment import OPS, SIGNED, ReplaySpec, draw, replay
from clip_edge.distill.reinforce.datacompdr import find_members, import_datacompdr, read_params
from clip_edge.distill.reinforce.reader import open_reinforced
from clip_edge.errors import DataError, UsageError
from clip_edge.images import open_image

TEACHERS = ("one:12:100", "two:8:50")
AUGMENTATIONS, SYNTHETIC = 3, 2


def entry(seed: int, image: Image.Image) -> list:
    """One `param_aug` entry, drawn as DataCompDR's generator does: translations in pixels at 224."""
    params = draw(random.Random(seed), *image.size, ReplaySpec())
    pairs = [
        [op, magnitude * 224 if OPS[op].startswith("Translate") else magnitude]
        for op, magnitude in zip(params.ops, params.magnitudes, strict=True)
    ]
    return [list(params.box), pairs]


def embeddings(i: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(i)

    def unit(count: int) -> np.ndarray:
        halves = [rng.normal(size=(count, dim)) for dim in (12, 8)]
        return np.concatenate([half / np.linalg.norm(half, axis=1, keepdims=True) for half in halves], 1)

    return {"image_emb": unit(AUGMENTATIONS), "text_emb": unit(1), "syn_text_emb": unit(SYNTHETIC)}


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    np.savez(out, **{name: values.astype(np.float32) for name, values in arrays.items()})
    return out.getvalue()


def pth(arrays: dict[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    torch.save({name: torch.from_numpy(values).bfloat16() for name, values in arrays.items()}, out)
    return gzip.compress(out.getvalue())


def published(arrays: dict[str, np.ndarray]) -> bytes:
    """All captions in one array, as in the published data."""
    return pth(
        {
            "image_emb": arrays["image_emb"],
            "text_emb": np.concatenate([arrays["text_emb"], arrays["syn_text_emb"]]),
        }
    )


def write(folder: Path, data: Path, ending: str, pack: Callable, change: Callable | None = None) -> Path:
    """DataCompDR shards without pictures, for the pictures of `data`."""
    dataset = open_dataset(data)
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for i, key in enumerate(dataset.keys):
            if key == "000010":
                continue
            image = open_image(dataset.sample(i).image)
            entries: object = [entry(i * 10 + a, image) for a in range(AUGMENTATIONS)]
            members: dict[str, bytes] = {
                "paug.json": json.dumps({"param_aug": json.dumps(entries) if i % 2 else entries}).encode(),
                "syn.json": json.dumps({"syn_text": [f"syn {i} {n}" for n in range(SYNTHETIC)]}).encode(),
                ending: pack(embeddings(i)),
                "txt": f"noise {i}".encode(),
                "url.txt": b"https://example.org",
            }
            if change:
                change(i, members)
            for name, content in members.items():
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return folder


@pytest.mark.parametrize(("ending", "pack"), [("npz", npz), ("pth.gz", pth), ("pth.gz", published)])
def test_both_layouts_are_imported(shards: Path, tmp_path: Path, ending: str, pack: Callable) -> None:
    source = write(tmp_path / "dr", shards, ending, pack)
    dataset = open_dataset(shards)
    manifest = import_datacompdr(dataset, source, tmp_path / "out", teachers=TEACHERS)
    assert manifest.complete
    assert [one.key for one in manifest.skipped] == ["000010"]
    stored = open_reinforced(dataset, tmp_path / "out")
    assert [(info.name, info.dim, info.logit_scale) for info in stored.teachers] == [("one", 12, 100), ("two", 8, 50)]
    for i in stored.usable.tolist():
        expected = embeddings(i)
        captions = stored.captions(i, dataset.sample(i))
        assert [one.text for one in captions] == [f"noise {i}", f"syn {i} 0", f"syn {i} 1"]
        texts = np.concatenate([expected["text_emb"], expected["syn_text_emb"]])
        for k, part in ((0, slice(12)), (1, slice(12, 20))):
            for a in range(AUGMENTATIONS):
                vector = torch.from_numpy(expected["image_emb"][a, part]).float()
                assert float(stored.image_embeds(i, a)[k] @ vector) > 0.9999
            for caption, text in zip(captions, texts, strict=True):
                assert float(stored.text_embeds(i, caption)[k] @ torch.from_numpy(text[part]).float()) > 0.9999


def test_imported_parameters_give_the_pixels_of_their_generator(shards: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "dr", shards, "npz", npz)
    dataset = open_dataset(shards)
    import_datacompdr(dataset, source, tmp_path / "out", teachers=TEACHERS)
    stored = open_reinforced(dataset, tmp_path / "out")
    for i in stored.usable.tolist():
        image = open_image(dataset.sample(i).image)
        for a in range(AUGMENTATIONS):
            box, pairs = entry(i * 10 + a, image)
            made = F.resized_crop(image, *box, [224, 224], InterpolationMode.BICUBIC)
            for op, magnitude in pairs:
                made = autoaugment._apply_op(made, OPS[op], magnitude, InterpolationMode.NEAREST, None)
            assert replay(image, stored.params(i, a), 224).tobytes() == made.tobytes()
    assert len(SIGNED) == 9


def test_skipped_transforms_are_replayed_as_nothing() -> None:
    params = read_params([None, None], (40, 30))
    assert params.box == (0, 0, 30, 40)
    assert params.ops == (0, 0)
    assert read_params([[0, 0, 30, 40], [[5, -9.0]]], (40, 30)).ops == (5, 0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            [[0, 0, 31, 40], []],
            "a crop leaves the picture of 40 × 30 pixels: it was resized since the crops were drawn",
        ),
        ([[0, 0, 30, 40], [[14, 1.0]]], "param_aug is not [[top, left, height, width], [[operation, magnitude], ...]]"),
        ([[0, 0, 30], []], "param_aug is not [[top, left, height, width], [[operation, magnitude], ...]]"),
        ("text", "param_aug is not [[top, left, height, width], [[operation, magnitude], ...]]"),
        ([[0, 0, 9, 9], [[1, float("nan")]]], "param_aug is not "),
    ],
)
def test_parameters_of_other_pictures_are_refused(bad: object, message: str) -> None:
    with pytest.raises(DataError) as problem:
        read_params(bad, (40, 30))
    assert str(problem.value).startswith(message)


class Boom:
    def __reduce__(self) -> tuple:
        return (exec, ("raise SystemExit('code in the data ran')",))


def hostile(i: int, members: dict[str, bytes]) -> None:
    out = io.BytesIO()
    if i == 0:
        members["pth.gz"] = b"not gzip"
    elif i == 1:
        torch.save({"image_emb": Boom()}, out)
        members["pth.gz"] = gzip.compress(out.getvalue())
    elif i == 2:
        members["pth.gz"] = gzip.compress(bytes(70 * 1024 * 1024))
    elif i == 3:
        members["json"] = json.dumps({"sha256": "0" * 64}).encode()
    elif i == 4:
        members["txt"] = b"another caption"
    elif i == 5:
        members["paug.json"] = b'{"param_aug": 5}'
    elif i == 6:
        members["pth.gz"] = pth({**embeddings(i), "text_emb": np.ones((1, 7))})
    elif i == 7:
        np.savez(out, image_emb=np.array([Boom()], dtype=object), allow_pickle=True)
        members["npz"] = out.getvalue()


def test_damaged_and_hostile_samples_are_named(shards: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "dr", shards, "pth.gz", pth, hostile)
    dataset = open_dataset(shards)
    manifest = import_datacompdr(dataset, source, tmp_path / "out", teachers=TEACHERS)
    reasons = {one.key: one.reason for one in manifest.skipped}
    starts = [
        "the embeddings cannot be read: Not a gzipped file",
        "the embeddings cannot be read: Weights only load failed",
        "the embeddings cannot be read: it unpacks to more than 64 MiB",
        "the picture is not the one that was described: its SHA-256 differs",
        "the caption is not the one that was embedded",
        "`param_aug` is no list",
        "`text_emb` has the shape (1, 7); the teachers give (n, 20) numbers",
        "the embeddings cannot be read: Object arrays cannot be loaded when allow_pickle=False",
    ]
    assert len(reasons) == len(starts) + 1
    for i, start in enumerate(starts):
        assert reasons[f"{i:06d}"].startswith(start), reasons[f"{i:06d}"]


def test_shards_without_knowledge_are_refused(shards: Path, tmp_path: Path) -> None:
    dataset = open_dataset(shards)
    with pytest.raises(DataError) as problem:
        find_members(tmp_path)
    assert str(problem.value) == (
        "no DataCompDR samples: no tar here has members named {uid}.paug.json\n"
        f"  in: {tmp_path}\n\nhint: name the folder of the downloaded shards with --import-datacompdr"
    )
    source = write(tmp_path / "dr", shards, "npz", npz)
    with pytest.raises(DataError, match=r"the teachers give \(n, 1536\) numbers"):
        import_datacompdr(dataset, source, tmp_path / "out")
    with pytest.raises(UsageError, match=r"^not NAME:DIMENSION:LOGIT_SCALE: `one`"):
        import_datacompdr(dataset, source, tmp_path / "out", teachers=("one",))
