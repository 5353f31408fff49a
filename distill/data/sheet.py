"""The contact sheet: a grid of samples with their captions, for a person to look at."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, features

from clip_edge.distill.data.samples import DataSet, Sample
from clip_edge.errors import DataError
from clip_edge.images import open_image

COLUMNS, ROWS = 6, 4
TILE = 192
GAP = 16
LINE = 17
LINES = 5  # of text below a picture
INK, FAINT, PAPER, BROKEN = "#1c1c1e", "#6e6e73", "#ffffff", "#d9d9de"
TEXT_PX = 13
# Fonts in the order of trust, as the systems name their files. The first that has every letter of a caption is used.
FONTS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "wqy-microhei.ttc",
    "HiraginoSans-W3.ttc",
    "PingFang.ttc",
    "Arial Unicode.ttf",
    "AppleSDGothicNeo.ttc",
    "NotoSansArabic-Regular.ttf",
)
RIGHT_TO_LEFT = ("ar", "fa")  # their letters join: only a shaping engine draws them correctly

Font = ImageFont.FreeTypeFont


def sheet_png(dataset: DataSet, title: str | None = None) -> bytes:
    """Up to 24 samples, spread evenly over the data set, as one PNG.

    Captions stand in the first two languages that a font of this machine can write. A broken picture is shown
    as a grey tile with its reason.
    """
    count = min(COLUMNS * ROWS, len(dataset))
    chosen = [i * len(dataset) // count for i in range(count)]
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    head = GAP + 2 * LINE
    cell_w, cell_h = TILE + GAP, TILE + GAP + LINES * LINE
    sheet = Image.new("RGB", (GAP + columns * cell_w, head + GAP + rows * cell_h), PAPER)
    draw = ImageDraw.Draw(sheet)
    fonts = _fonts()
    heading = title or f"{dataset.name} · {dataset.split} · {count} of {len(dataset)} samples"
    draw.text((GAP, GAP), heading, INK, _font_for(heading, "", fonts) or fonts[-1])
    for place, i in enumerate(chosen):
        corner = (GAP + place % columns * cell_w, head + GAP + place // columns * cell_h)
        _draw_sample(sheet, draw, corner, dataset, i, fonts)
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()


def _draw_sample(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    dataset: DataSet,
    i: int,
    fonts: Sequence[Font],
) -> None:
    x, y = corner
    try:
        sample = dataset.sample(i)
        picture = open_image(sample.image)
        lines = _caption_lines(sample, dataset.langs, fonts)
    except DataError as problem:
        draw.rectangle((x, y, x + TILE - 1, y + TILE - 1), BROKEN)
        lines = [(line, INK, fonts[-1]) for line in _wrap(f"{dataset.keys[i]}: {problem.what}", fonts[-1], LINES)]
    else:
        scale = TILE / max(picture.size)
        wide, high = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((wide, high), Image.Resampling.BICUBIC)
        sheet.paste(picture, (x + (TILE - wide) // 2, y + (TILE - high) // 2))
        draw.rectangle((x, y, x + TILE - 1, y + TILE - 1), outline=BROKEN)
    for number, (line, colour, font) in enumerate(lines):
        draw.text((x, y + TILE + 4 + number * LINE), line, colour, font)


def _caption_lines(sample: Sample, langs: Sequence[str], fonts: Sequence[Font]) -> list[tuple[str, str, Font]]:
    """At most five lines in at most two languages: (text, colour, font)."""
    lines: list[tuple[str, str, Font]] = []
    written = 0
    for lang in dict.fromkeys((*(lang for lang in langs if lang in sample.captions), *sample.captions)):
        texts = sample.captions[lang]
        text = texts[min(1, len(texts) - 1)]  # the second caption has the relation, where there is one
        font = _font_for(text, lang, fonts)
        if font is not None and written < 2:
            room = LINES - len(lines) - (1 if written == 0 and len(langs) > 1 else 0)
            lines += [(line, INK if written == 0 else FAINT, font) for line in _wrap(text, font, room)]
            written += 1
    return lines


def _fonts() -> list[Font]:
    found = []
    for name in FONTS:
        try:
            found.append(ImageFont.truetype(name, TEXT_PX))
        except OSError:
            continue  # not on this machine
    default = ImageFont.load_default(TEXT_PX)
    return [*found, default] if isinstance(default, Font) else found


def _font_for(text: str, lang: str, fonts: Sequence[Font]) -> Font | None:
    """The first font that has every letter of `text`."""
    if lang in RIGHT_TO_LEFT and not features.check("raqm"):
        return None
    return next((font for font in fonts if _covers(font, text)), None)


def _covers(font: Font, text: str) -> bool:
    missing = bytes(font.getmask("\U0010fffe"))
    return all(char.isspace() or bytes(font.getmask(char)) != missing for char in set(text))


def _wrap(text: str, font: Font, lines: int) -> list[str]:
    """`text` in at most `lines` lines of the width of a picture; what does not fit ends with an ellipsis."""
    words = text.split(" ") if " " in text else list(text)
    glue = " " if " " in text else ""
    wrapped = [""]
    for word in words:
        longer = wrapped[-1] + (glue if wrapped[-1] else "") + word
        if font.getlength(longer) <= TILE or not wrapped[-1]:
            wrapped[-1] = longer
        else:
            wrapped.append(word)
    if len(wrapped) > lines:
        wrapped = wrapped[:lines]
        wrapped[-1] = wrapped[-1][: max(1, len(wrapped[-1]) - 2)].rstrip() + "…"
    return wrapped
