import io

import numpy as np
from PIL import Image, ImageFont

from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.sheet import GAP, LINE, TILE, _covers, _wrap, sheet_png


def test_the_pictures_of_the_data_set_are_on_the_sheet(emoji_data):
    dataset = open_dataset(emoji_data)
    sheet = np.asarray(Image.open(io.BytesIO(sheet_png(dataset))))
    first = Image.open(io.BytesIO(dataset.sample(0).image)).resize((TILE, TILE), Image.Resampling.BICUBIC)
    top, left = 2 * GAP + 2 * LINE, GAP
    shown = sheet[top + 1 : top + TILE - 1, left + 1 : left + TILE - 1]
    assert np.array_equal(shown, np.asarray(first)[1:-1, 1:-1])
    below = sheet[top + TILE + 4 : top + TILE + 4 + LINE, left : left + TILE]
    assert below.min() < 80, "a caption is written below"


def test_broken_samples_are_shown_with_their_reason(make, tmp_path):
    make.tar(tmp_path / "a.tar", [*make.good(1), ("bad.png", b"nothing"), ("bad.txt", b"x")])
    sheet = Image.open(io.BytesIO(sheet_png(open_dataset(tmp_path))))
    assert sheet.getpixel((GAP + TILE + GAP + TILE // 2, 2 * GAP + 2 * LINE + TILE // 2)) == (0xD9, 0xD9, 0xDE)


def test_a_font_covers_only_what_it_has():
    font = ImageFont.load_default(13)
    assert _covers(font, "red apple")
    assert not _covers(font, "红苹果")


def test_long_text_is_cut_with_an_ellipsis():
    font = ImageFont.load_default(13)
    lines = _wrap("word " * 100, font, 3)
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert all(font.getlength(line) <= TILE for line in lines)
