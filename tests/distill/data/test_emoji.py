import numpy as np
import pytest

from clip_edge.distill.data.emoji import (
    DISTINCT,
    LANGUAGES,
    clean_name,
    distinct_sprites,
    licence,
    render,
    usable_emoji,
)


@pytest.fixture(scope="module")
def usable():
    return usable_emoji()


def test_more_than_a_thousand_emoji_with_a_name_of_their_own_in_every_language(usable):
    assert len(usable) > 1200
    assert [emoji.id for emoji in usable] == sorted(emoji.id for emoji in usable)
    for lang in LANGUAGES:
        names = [emoji.names[lang] for emoji in usable]
        assert len(set(names)) == len(names), lang
        assert all(name == clean_name(name) != "" and "_" not in name for name in names)


def test_names_belong_to_the_drawings(usable):
    names = {emoji.id: emoji.names for emoji in usable}
    assert names["1F34E"]["en"] == "red apple"
    assert (names["1F34E"]["zh"], names["1F34E"]["ru"]) == ("红苹果", "красное яблоко")
    assert names["2764"]["en"] == "red heart"  # the file is 2764.svg, the emoji 2764 FE0F
    assert names["1F408-200D-2B1B"]["en"] == "black cat"


def test_variants_that_cannot_be_told_apart_are_left_out(usable):
    codes = {code for emoji in usable for code in emoji.id.split("-")}
    assert not codes & {"1F3FB", "1F3FF", "1F1E6", "1F9B0", "2642", "2640", "20E3"} - {emoji.id for emoji in usable}


def test_clean_name():
    assert clean_name(":red_apple:") == "red apple"


def test_a_sprite_is_cropped_to_what_is_visible(usable):
    sprite = render(usable[100], 64)
    image = sprite.image()
    alpha = np.asarray(image)[..., 3]
    assert image.mode == "RGBA"
    assert alpha.max() == 255
    assert alpha[2].any()
    assert not alpha[:2].any()  # the transparent margin


def test_look_alikes_are_drawn_once(usable):
    by_name = {emoji.names["en"]: emoji for emoji in usable}
    order = [
        by_name[name] for name in ("red apple", "twelve o’clock", "eleven o’clock", "dog", "new moon", "black circle")
    ]
    kept = list(distinct_sprites(order, 64, None))
    assert [sprite.emoji.names["en"] for sprite in kept] == ["red apple", "twelve o’clock", "dog", "new moon"]
    far = np.abs(kept[0].thumbnail - kept[1].thumbnail).mean()
    assert far > DISTINCT


def test_the_licence_travels():
    name, attribution, url, text = licence()
    assert name == "CC BY-SA 4.0"
    assert "OpenMoji" in attribution
    assert url.startswith("https://creativecommons.org/licenses/by-sa/4.0")
    assert text.startswith("Attribution-ShareAlike 4.0 International")
