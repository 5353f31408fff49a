"""A loaded bundle: pictures and sentences in, unit vectors and probabilities out."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from clip_edge.bundle import TOWERS, Bundle, Manifest, Tower
from clip_edge.errors import BundleError, DataError, UsageError
from clip_edge.graphs import GraphName
from clip_edge.images import as_rgb, open_image
from clip_edge.machine import usable_cores
from clip_edge.preprocess import Bytes, Floats
from clip_edge.runtime import transfers
from clip_edge.runtime.backends import (
    DEFAULT,
    Inputs,
    Options,
    Run,
    RunGraph,
    find_backend,
    open_graph,
    open_inputs,
    open_tower,
)
from clip_edge.runtime.segmentation import BACKGROUND, Outline, Prompt, Segmentation, Segmenter, View
from clip_edge.segment import frame_of

Picture = str | Path | bytes | Image.Image | Bytes  # a path, a file's bytes, a Pillow picture, or (H, W, 3) uint8 RGB

BATCH = 16  # pictures decoded and embedded at a time: bounds memory, and more is no faster on a CPU
CACHED_LABEL_SETS = 32


def load(
    bundle: str | Path,
    backend: str = DEFAULT,
    *,
    threads: int | None = None,
    precision: str | None = None,
    towers: Sequence[Tower] = TOWERS,
    spin: bool = False,
    trusted: bool = False,
) -> Model:
    """Load a bundle. The hash of every file that is used is checked, unless the bundle is `trusted`.

    Args:
        threads: of the engine, and to read pictures with when there are several; None takes every core.
        precision: of the graphs; None takes the first in the manifest, which is the most exact.
        towers: what to load; an app that only embeds pictures saves memory and start-up time with `["image"]`.
        spin: let threads that wait burn CPU, for a millisecond at most: calls that follow each other closely take 11 to
            40 % less time on an idle machine, and up to twice as long on a busy one (ONNX Runtime, two threads).
        trusted: skip the hashes (about half of the loading time) of a bundle that was verified where it lies.

    Raises:
        BundleError: the bundle is damaged or has no graph for this backend.
        UsageError: unknown backend or precision (the nearest is named), or a precision that the backend does not run.
        UnavailableError: the package of the backend is not installed.
    """
    row = find_backend(backend)
    targets = row.targets
    if precision in row.refuses:
        raise UsageError(f"backend `{backend}` does not run {precision}", hint=f"`{DEFAULT}` runs every precision")
    if threads is not None and threads < 1:
        raise UsageError(f"`threads` must be at least 1; found {threads}")
    opened = Bundle.open(Path(bundle), verify_hashes=False, trusted=trusted)
    options = Options(threads, spin)

    def open_part(name: GraphName) -> RunGraph:
        return open_graph(backend, opened, opened.manifest.graph(name, targets, precision), options)

    runs: dict[Tower, Run] = {}
    for tower in towers:
        runs[tower] = open_tower(backend, opened, opened.manifest.artifact(tower, targets, precision), options)
    return Model(opened, runs, open_inputs(backend, opened), Segmenter(open_part), threads)


class Model:
    """What `load` gives. Any number of threads may call any method at the same time."""

    def __init__(
        self, bundle: Bundle, runs: dict[Tower, Run], inputs: Inputs, segmenter: Segmenter, threads: int | None = None
    ) -> None:
        self.bundle = bundle
        self._segmenter = segmenter
        self._runs = runs
        self._last = threading.local()
        self._labels: OrderedDict[tuple[tuple[str, ...], tuple[str, ...]], Floats] = OrderedDict()
        self._labels_lock = threading.Lock()
        self._values = inputs.values
        threads = usable_cores() if threads is None else threads
        self._workers = ThreadPoolExecutor(threads, "clip-edge") if threads > 1 else None  # threads start with work
        self._tokens = inputs.tokens() if "text" in runs else None

    @property
    def manifest(self) -> Manifest:
        """What the bundle says about itself."""
        return self.bundle.manifest

    @property
    def timings(self) -> dict[str, float]:
        """Seconds of this thread's last call by stage: `decode`, `preprocess`, `tokenise`, `encode`.

        On a GPU the copies to it and back are a stage of their own, `transfer`, and no part of `encode`.
        """
        return dict(getattr(self._last, "timings", {}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back; calls after this raise UsageError."""
        self._runs, self._workers = {}, None  # threads end with the last call that uses them

    def encode_images(self, images: Sequence[Picture], *, batch_size: int = BATCH) -> Floats:
        """N pictures -> (N, D) float32; unit rows when the manifest says `normalized`.

        Raises:
            DataError: a picture cannot be read; `where` names it.
        """
        if isinstance(images, str | bytes | Path | Image.Image):
            raise UsageError("encode_images takes a list of pictures; found one", hint="write [picture]")
        with self._timed("decode", "preprocess", "encode") as timings:
            run = self._run("image")
            rows: list[Floats] = [np.empty((0, self.manifest.embedding.dim), np.float32)]
            for start in range(0, len(images), batch_size):
                batch = self._prepared(images, range(start, min(start + batch_size, len(images))), timings)
                with _stage(timings, "encode"):
                    rows.append(run(batch))
            return _joined(rows)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = BATCH) -> Floats:
        """M sentences -> (M, D) float32; unit rows when the manifest says `normalized`."""
        with self._timed("tokenise", "encode") as timings:
            run = self._run("text")
            assert self._tokens is not None
            with _stage(timings, "tokenise"):
                ids = self._tokens(texts)
            rows: list[Floats] = [np.empty((0, self.manifest.embedding.dim), np.float32)]
            with _stage(timings, "encode"):
                rows += [run(ids[start : start + batch_size]) for start in range(0, len(ids), batch_size)]
            return _joined(rows)

    def classify(self, images: Sequence[Picture], labels: Sequence[str], templates: Sequence[str] = ("{}",)) -> Floats:
        """The probability of each label for each picture: N pictures, C labels -> (N, C), rows sum to 1."""
        return self.probabilities(self.encode_images(images), self.encode_labels(labels, templates))

    def encode_labels(self, labels: Sequence[str], templates: Sequence[str] = ("{}",)) -> Floats:
        """C labels -> (C, D): the mean direction of each label in every template (CLIP, section 3.1.4). Kept.

        Raises:
            UsageError: no labels, no templates, or a template without `{}`.
        """
        key = tuple(labels), tuple(templates)
        _check_prompts(*key)
        with self._labels_lock:
            found = self._labels.get(key)
        if found is None:
            prompts = [template.replace("{}", label) for label in labels for template in templates]
            embeds = self.encode_texts(prompts).reshape(len(labels), len(templates), -1)
            mean = embeds.mean(1)  # (C, T, D) -> (C, D)
            found = (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)
        with self._labels_lock:
            self._labels[key] = found
            self._labels.move_to_end(key)
            while len(self._labels) > CACHED_LABEL_SETS:
                self._labels.popitem(last=False)
        return found.copy()

    def probabilities(self, image_embeds: Floats, label_embeds: Floats) -> Floats:
        """(N, D), (C, D) -> (N, C): softmax over the labels of the scaled cosine."""
        logits = self.manifest.embedding.logit_scale * (image_embeds.astype(np.float64) @ label_embeds.T)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        result: Floats = (shares / shares.sum(1, keepdims=True)).astype(np.float32)
        return result

    def look(self, picture: Picture) -> View:
        """Run the encoder on a picture; `segment` and `masks` take what this gives in its place.

        Raises:
            DataError: the picture cannot be read. BundleError: the bundle has no graphs for segmentation.
        """
        self._segmenter.run("encoder")  # a bundle without it is said so before any work
        with self._timed("decode", "preprocess", "encode") as timings:
            with _stage(timings, "decode"):
                image = _read(picture, 0)
            with _stage(timings, "preprocess"):
                values = self._values(image)
            where = str(picture) if isinstance(picture, str | Path) else "the picture"
            with _stage(timings, "encode"):
                frame = frame_of(image.width, image.height, self.manifest.image.preprocess)
                return self._segmenter.view(values, frame, where)

    def embed(self, picture: Picture | View) -> tuple[Floats, Floats]:
        """The embedding of the picture (D,), that of `encode_images`, and of its places (D, h, w): unit vectors.

        Of a view it costs the CLIP head alone.

        Raises:
            DataError, BundleError: as `look`.
        """
        return self._segmenter.embed(picture if isinstance(picture, View) else self.look(picture))

    def segment(
        self,
        picture: Picture | View,
        texts: Sequence[str],
        templates: Sequence[str] = ("{}",),
        *,
        background: Sequence[str] = BACKGROUND,
        refined: bool = False,
    ) -> Segmentation:
        """The word that fits every pixel best, after SAM-CLIP (arXiv 2310.15308, section 4.4).

        `background` words compete like the others and stand for nothing; without any, every pixel gets a word.
        `refined` takes the edges from the mask decoder, where the bundle has one.

        Raises:
            DataError, BundleError: as `look`. UsageError: as `encode_labels`.
        """
        view = picture if isinstance(picture, View) else self.look(picture)
        embeds = [self.encode_labels(texts, templates)]
        if background:
            embeds.append(self.encode_labels(background, ["{}"]))
        return self._segmenter.segment(view, texts, np.concatenate(embeds), background=len(background), refined=refined)

    def masks(self, picture: Picture | View, prompts: Sequence[Prompt]) -> list[Outline]:
        """What each prompt outlines in the picture.

        Raises:
            DataError, BundleError: as `look`. UsageError: a prompt lies outside the picture, or of what the model sees.
        """
        view = picture if isinstance(picture, View) else self.look(picture)
        return self._segmenter.masks(view, prompts)

    def _prepared(self, images: Sequence[Picture], wanted: range, timings: dict[str, float]) -> Floats:
        """(B, 3, S, S) of the `wanted` pictures. Several are read at once, on as many threads as the engine has."""
        size = self.manifest.image.preprocess.size
        batch = np.empty((len(wanted), 3, size, size), np.float32)

        def prepare(i: int) -> tuple[float, float]:
            started_s = time.perf_counter()
            picture = _read(images[i], i)
            read_s = time.perf_counter()
            batch[i - wanted.start] = self._values(picture)
            return read_s - started_s, time.perf_counter() - read_s

        started_s = time.perf_counter()
        workers = self._workers if len(wanted) > 1 else None
        spent_s = list(map(prepare, wanted) if workers is None else workers.map(prepare, wanted))
        passed_s = (time.perf_counter() - started_s) / sum(map(sum, spent_s))  # for each second on some thread
        timings["decode"] += passed_s * sum(decode_s for decode_s, _ in spent_s)
        timings["preprocess"] += passed_s * sum(preprocess_s for _, preprocess_s in spent_s)
        return batch

    def _run(self, tower: Tower) -> Run:
        if tower not in self._runs:
            raise UsageError(
                f"the {tower} tower is not loaded", hint=f'call load(..., towers=["{tower}"]) before, and close() after'
            )
        return self._runs[tower]

    @contextmanager
    def _timed(self, *stages: str) -> Iterator[dict[str, float]]:
        timings = dict.fromkeys(stages, 0.0)
        transfers.take()  # a call that failed may have left some
        yield timings
        if (copied_s := transfers.take()) > 0:
            timings["encode"] -= copied_s
            timings["transfer"] = copied_s
        self._last.timings = timings


def _read(picture: Picture, index: int) -> Image.Image:
    if isinstance(picture, str | Path):
        return open_image(Path(picture))
    where = f"images[{index}]"
    try:
        if isinstance(picture, bytes):
            return open_image(picture)
        if isinstance(picture, np.ndarray):
            return _from_array(picture)
        return as_rgb(picture)
    except DataError as problem:
        raise DataError(problem.what, where=where, hint=problem.hint) from problem


def _from_array(pixels: Bytes) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise DataError(
            f"an array of uint8 and shape (height, width, 3) expected; found {pixels.dtype} {pixels.shape}",
            hint="give RGB values from 0 to 255, channels last",
        )
    return Image.fromarray(np.ascontiguousarray(pixels))


def _joined(rows: Sequence[Floats]) -> Floats:
    joined: Floats = np.concatenate(rows)
    if not np.isfinite(joined).all():
        raise BundleError("the model gives NaN or infinity", hint="`clip-edge verify` on the bundle tells more")
    return joined


def _check_prompts(labels: tuple[str, ...], templates: tuple[str, ...]) -> None:
    if not labels or not templates:
        raise UsageError("at least one label and one template are needed")
    for template in templates:
        if "{}" not in template:
            raise UsageError(f"a template without `{{}}`: `{template}`", hint="for example: `a picture of {}`")


@contextmanager
def _stage(timings: dict[str, float], name: str) -> Iterator[None]:
    started_s = time.perf_counter()
    yield
    timings[name] += time.perf_counter() - started_s
