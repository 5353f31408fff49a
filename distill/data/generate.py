"""`clip-edge data emoji`: the built-in data set, written as WebDataset shards with the same bytes for the same seed."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, overload

from clip_edge import __version__
from clip_edge.console import SILENT, Console, Meter
from clip_edge.distill.data.emoji import LANGUAGES, Sprite, distinct_sprites, licence, render, usable_emoji
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.scenes import Drawing, Scene, SceneSpec, compose, png_bytes
from clip_edge.distill.data.sheet import sheet_png
from clip_edge.errors import UsageError, unknown_name
from clip_edge.files import new_folder, sha256_file, write_file, write_json

SPLITS = ("train", "val", "test", "unseen")
MAX_EMOJI = 10_000
SAMPLES_PER_SHARD = 1000  # about 12 MB at 96 px
SUPERSAMPLE = 1.25  # emoji are drawn this much larger than the scene: they fill 4/5 of their own canvas
CHOICE_PX = 120  # all emoji are drawn once, to find look-alikes: at most this large (4 ms; 80 ms at 640 pixels)
DECODED_BYTES = 256_000_000  # of drawings that a process keeps decoded; the others stay PNG
DEFAULT_EVAL_IMAGES = 500
BYTES_PER_PIXEL = 1.3  # of a finished data set, measured; only the dry run uses it


@dataclass(frozen=True)
class EmojiOptions:
    """What `clip-edge data emoji` may be asked for."""

    images: int = 8000
    eval_images: int | None = None  # None: 500, or `images` when that is less
    emojis: int | None = None  # None: every usable one
    unseen: float = 0.1  # a share below 1, or a number of emoji
    size: int = 96
    langs: tuple[str, ...] = ("en", "zh")
    objects: tuple[int, int] = (1, 4)
    seed: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        for lang in self.langs:
            if lang not in LANGUAGES:
                raise unknown_name("language", lang, LANGUAGES)
        if len(set(self.langs)) != len(self.langs) or not self.langs:
            raise UsageError(f"--langs needs each language once; found `{','.join(self.langs)}`")
        low, high = self.objects
        if not 1 <= low <= high <= 4:
            raise UsageError(f"--objects needs a range within 1-4; found `{low}-{high}`")
        for name, value, least, most in (
            ("--emojis", MAX_EMOJI if self.emojis is None else self.emojis, 1, MAX_EMOJI),
            ("--size", self.size, 32, 1024),
            ("--images", self.images, 1, 10_000_000),
            ("--eval-images", self.samples("val"), 1, 1_000_000),
            ("--workers", self.workers, 1, 256),
        ):
            if not least <= value <= most:
                raise UsageError(f"{name} must lie in {least}..{most}; found {value}")
        if not (0 <= self.unseen < 1 or self.unseen in range(1, MAX_EMOJI)):
            raise UsageError(f"--unseen needs a share below 1 or a whole number; found {self.unseen}")

    def samples(self, split: str) -> int:
        """How many scenes a split gets."""
        if split == "train":
            return self.images
        return min(DEFAULT_EVAL_IMAGES, self.images) if self.eval_images is None else self.eval_images

    def unseen_count(self, emojis: int) -> int:
        """How many of `emojis` are kept out of training."""
        return round(self.unseen * emojis) if self.unseen < 1 else int(self.unseen)


def plan(options: EmojiOptions) -> dict[str, Any]:
    """What `write_emoji` would do, without doing it. Look-alikes are only found by drawing, so `emojis` is a bound."""
    usable = len(usable_emoji())
    total = usable if options.emojis is None else options.emojis
    check_counts(options, total, usable)
    samples = {split: options.samples(split) for split in SPLITS}
    pixels = sum(samples.values()) * options.size**2
    return {
        "emojis": total,
        "unseen_emojis": options.unseen_count(total),
        "samples": samples,
        "approximate_bytes": round(pixels * BYTES_PER_PIXEL),
    }


def check_counts(options: EmojiOptions, total: int, available: int) -> None:
    """Raise UsageError unless there are enough emoji for every split to show its largest scenes."""
    unseen, most = options.unseen_count(total), options.objects[1]
    if total > available:
        raise UsageError(f"--emojis {total} is more than the {available} drawings that differ from each other")
    if unseen < most or total - unseen < most:
        raise UsageError(
            f"{total - unseen} seen and {unseen} unseen emoji cannot fill scenes of {most}",
            hint="raise --emojis, change --unseen, or lower --objects",
        )


def write_emoji(out: Path, options: EmojiOptions, console: Console = SILENT) -> dict[str, Any]:
    """Write the data set to `out` and return its dataset.json.

    Raises:
        UsageError: `out` exists, or the options cannot be met.
        UnavailableError: a package is missing, or the disk is full.
    """
    with new_folder(out) as folder:
        sprites = choose_sprites(options, console)
        count = options.unseen_count(len(sprites))
        unseen, seen = sprites[:count], sprites[count:]
        write_json(folder / "classes.json", _classes(seen, unseen))
        spec = SceneSpec(options.seed, options.size, options.langs, options.objects)
        composer = Composer(spec, tuple(seen), tuple(unseen))
        splits = {}
        total = sum(options.samples(split) for split in SPLITS)
        with _mapping(composer, options.workers) as scenes, console.progress("composing", total, "scenes") as meter:
            for split in SPLITS:
                splits[split] = _write_split(folder, split, options.samples(split), scenes, meter)
        info = _dataset_json(options, splits)
        write_json(folder / "dataset.json", info)
        _write_licence(folder)
        write_file(folder / "contact-sheet.png", sheet_png(open_dataset(folder, "train")))
    return info


def choose_sprites(options: EmojiOptions, console: Console = SILENT) -> list[Sprite]:
    """The emoji of the data set in an order drawn from the seed; the first ones become `unseen`."""
    usable = usable_emoji()
    order = random.Random(f"{options.seed}/emoji").sample(usable, len(usable))
    wanted = options.emojis or len(order)
    check_counts(options, min(wanted, len(order)) if options.emojis is None else wanted, len(order))
    sprites = []
    size = min(CHOICE_PX, drawn_px(options.size))
    with _pool(options.workers) as pool, console.progress("drawing", options.emojis, "emoji") as meter:
        for sprite in islice(distinct_sprites(order, size, pool), wanted):
            sprites.append(sprite)
            meter.advance()
    check_counts(options, wanted if options.emojis else len(sprites), len(sprites))
    return sprites


def drawn_px(size: int) -> int:
    """How large emoji are drawn for scenes of `size` pixels."""
    return round(size * SUPERSAMPLE)


class Drawings(Sequence[Drawing]):
    """Emoji for scenes of `size` pixels, each drawn and decoded when a scene first shows it."""

    def __init__(self, sprites: Sequence[Sprite], size: int) -> None:
        self._sprites, self._px = sprites, drawn_px(size)
        self._drawn: dict[int, Sprite] = dict(enumerate(sprites)) if self._px <= CHOICE_PX else {}
        self._decoded = lru_cache(max(16, DECODED_BYTES // (4 * self._px**2)))(self._decode)

    def __len__(self) -> int:
        return len(self._sprites)

    @overload
    def __getitem__(self, at: int) -> Drawing: ...
    @overload
    def __getitem__(self, at: slice) -> list[Drawing]: ...
    def __getitem__(self, at: int | slice) -> Drawing | list[Drawing]:
        if isinstance(at, slice):
            return [self._decoded(i) for i in range(*at.indices(len(self)))]
        return self._decoded(range(len(self))[at])

    def _decode(self, at: int) -> Drawing:
        emoji = self._sprites[at].emoji
        if at not in self._drawn:
            drawn = render(emoji, self._px)
            assert drawn is not None  # it was visible when it was chosen
            self._drawn[at] = drawn
        return Drawing(emoji.id, self._drawn[at].image(), emoji.names)


class Composer:
    """Makes the files of scene `index` of a split; small to pickle, since emoji travel as PNG."""

    def __init__(self, spec: SceneSpec, seen: tuple[Sprite, ...], unseen: tuple[Sprite, ...]) -> None:
        self.spec = spec
        self._sprites = {True: seen, False: unseen}
        self._drawings: dict[bool, Drawings] = {}

    def __call__(self, task: tuple[str, int]) -> tuple[str, list[tuple[str, bytes]]]:
        """(split, index) -> key and its (extension, content) pairs."""
        split, index = task
        scene = compose(self._shown(split != "unseen"), split, index, self.spec)
        return f"{split}-{index:07d}", scene_files(scene)

    def _shown(self, seen: bool) -> Drawings:
        if seen not in self._drawings:
            self._drawings[seen] = Drawings(self._sprites[seen], self.spec.size)
        return self._drawings[seen]


def scene_files(scene: Scene) -> list[tuple[str, bytes]]:
    """The members of one sample: (extension, content)."""
    objects = [
        {"id": id_, "box": list(box), "area_px": area_px}
        for id_, box, area_px in zip(scene.ids, scene.boxes, scene.areas_px, strict=True)
    ]
    meta = {
        "captions": {lang: list(texts) for lang, texts in scene.captions.items()},
        "objects": objects,
        "background": {"colour": scene.colour, "pattern": scene.pattern},
        "relation": None if scene.relation is None else asdict(scene.relation),
    }
    text = scene.captions.get("en") or next(iter(scene.captions.values()))
    return [
        ("png", png_bytes(scene.image)),
        ("txt", text[0].encode()),
        ("json", json.dumps(meta, ensure_ascii=False, separators=(",", ":")).encode()),
        ("mask.png", png_bytes(scene.mask)),
    ]


_composer: Composer | None = None  # one per worker process, set when the process starts


def _set_composer(composer: Composer | None) -> None:
    global _composer
    _composer = composer


def _compose_here(task: tuple[str, int]) -> tuple[str, list[tuple[str, bytes]]]:
    assert _composer is not None
    return _composer(task)


Scenes = Callable[[list[tuple[str, int]]], Iterable[tuple[str, list[tuple[str, bytes]]]]]


@contextmanager
def _mapping(composer: Composer, workers: int) -> Iterator[Scenes]:
    """A function from tasks to finished scenes, in the order of the tasks whatever the number of processes."""
    with _pool(workers, composer) as pool:
        if pool is None:
            yield lambda tasks: map(composer, tasks)
        else:
            yield lambda tasks: pool.map(_compose_here, tasks, chunksize=16)


@contextmanager
def _pool(workers: int, composer: Composer | None = None) -> Iterator[ProcessPoolExecutor | None]:
    if workers == 1:
        yield None
        return
    context = get_context("spawn")  # the same on Linux and macOS, and safe beside threads
    with ProcessPoolExecutor(workers, context, initializer=_set_composer, initargs=(composer,)) as pool:
        yield pool


def _write_split(folder: Path, split: str, samples: int, scenes: Scenes, meter: Meter) -> dict[str, Any]:
    (folder / split).mkdir()
    shards = []
    for number, start in enumerate(range(0, samples, SAMPLES_PER_SHARD)):
        count = min(SAMPLES_PER_SHARD, samples - start)
        name = f"{split}/shard-{number:06d}.tar"
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, members in scenes([(split, start + i) for i in range(count)]):
                for extension, content in members:
                    member = tarfile.TarInfo(f"{key}.{extension}")  # time, owner and group stay 0: equal bytes
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                meter.advance()
        path = folder / name
        shards.append({"path": name, "samples": count, "sha256": sha256_file(path), "bytes": path.stat().st_size})
    return {"samples": samples, "shards": shards}


def _classes(seen: Sequence[Sprite], unseen: Sequence[Sprite]) -> list[dict[str, Any]]:
    marked = [(sprite.emoji, "seen") for sprite in seen] + [(sprite.emoji, "unseen") for sprite in unseen]
    return [
        {"id": emoji.id, "split": split, "names": emoji.names}
        for emoji, split in sorted(marked, key=lambda pair: pair[0].id)
    ]


def _dataset_json(options: EmojiOptions, splits: dict[str, Any]) -> dict[str, Any]:
    name, attribution, url, _ = licence()
    return {
        "schema": 1,
        "name": "openmoji-scenes",
        "created_by": f"clip-edge {__version__}",
        "seed": options.seed,
        "size": options.size,
        "objects": list(options.objects),
        "langs": list(options.langs),
        "splits": splits,
        "classes": "classes.json",
        "licence": {"name": name, "attribution": attribution, "url": url},
    }


def _write_licence(folder: Path) -> None:
    name, attribution, url, text = licence()
    write_file(folder / "LICENSE.txt", text.encode())
    lines = (
        "# Attribution",
        attribution,
        "Source of the drawings: <https://openmoji.org>.",
        f"Licence: [{name}]({url}); the full text is in LICENSE.txt.",
        "Changes: the drawings were rendered, scaled, turned and composed on coloured backgrounds by clip-edge. "
        f"The scenes are adaptations and are shared under the same licence, {name}.",
        "Names of the emoji: Unicode CLDR, through the Python package `emoji`.",
    )
    write_file(folder / "ATTRIBUTION.md", ("\n\n".join(lines) + "\n").encode())
