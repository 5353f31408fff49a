import itertools
import random
import re
import string

import pytest

from clip_edge.distill.data.captions import RELATIONS, Language, Relation, captions, languages
from clip_edge.distill.data.emoji import LANGUAGES
from clip_edge.distill.data.scenes import COLOURS

NAMES = ["N0", "N1", "N2", "N3"]


def test_fourteen_languages_english_first():
    assert next(iter(languages())) == "en"
    assert sorted(languages()) == list(LANGUAGES)


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_colour_and_number_has_its_own_words(code):
    language = languages()[code]
    assert list(language.colours) == list(COLOURS)
    assert len(set(language.colours.values())) == len(COLOURS)
    assert len(set(language.counts)) == 4


@pytest.mark.parametrize("code", LANGUAGES)
def test_templates_use_exactly_the_fields_that_they_are_given(code):
    language = languages()[code]
    expected = {
        "on": {"colour"},
        "counted": {"count", "on", "objects"},
        "related": {"relation", "on"},
        "related_more": {"relation", "others", "on"},
        **{kind: {"a", "b"} for kind in RELATIONS},
    }
    for name, fields in expected.items():
        assert _fields(getattr(language, name)) == fields, name
    assert all(_fields(template) == {"objects", "on"} for template in language.scene)


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_captions_differ_and_name_every_object_and_the_colour(code, count):
    language = languages()[code]
    relation = Relation(0, "left", 1) if count > 1 else None
    for seed in range(20):
        found = captions(language, NAMES[:count], "red", relation, random.Random(seed))
        assert len(set(found)) == len(found) == (3 if count > 1 else 2)
        for text in found:
            assert sorted(re.findall(r"N\d", text)) == NAMES[:count]
            assert language.colours["red"] in text
            assert text == " ".join(text.split())
            assert not set("{}") & set(text)


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_relation_reads_the_same_from_both_sides_and_differs_from_its_opposite(code):
    language = languages()[code]
    for one, other in (("left", "right"), ("above", "below")):
        here, there = getattr(language, one).format(a="N0", b="N1"), getattr(language, other).format(a="N0", b="N1")
        assert here != there
    assert len({getattr(language, kind) for kind in RELATIONS}) == 4


def test_english_as_a_person_would_write_it():
    en = languages()["en"]
    found = captions(en, ["red apple", "dog", "key"], "orange", Relation(1, "above", 0), random.Random(0))
    assert found[1] == "dog above red apple, also key, on an orange background"
    assert _all_first(en, ["dog"]) == {
        "dog on a blue background",
        "a picture of dog on a blue background",
    }


def test_the_other_languages_as_written():
    relation = Relation(0, "left", 1)
    expected = {
        "zh": "狗在猫的左边，红色背景",
        "de": "weiter links: 狗, weiter rechts: 猫; auf rotem Hintergrund",
        "ja": "猫の左に狗、赤い背景",
        "ru": "левее — 狗, правее — 猫; на красном фоне",
        "tr": "kırmızı arka plan üzerinde: daha solda: 狗, daha sağda: 猫",
        "ar": "إلى اليسار: 狗، وإلى اليمين: 猫، على خلفية حمراء",
    }
    for code, text in expected.items():
        assert captions(languages()[code], ["狗", "猫"], "red", relation, random.Random(0))[1] == text


def _all_first(language: Language, names: list[str]) -> set[str]:
    return {captions(language, names, "blue", None, random.Random(seed))[0] for seed in range(20)}


def _fields(template: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(template) if field}


def test_every_background_phrase_is_unique_across_colours():
    for language in languages().values():
        phrases = [language.on.format(colour=word) for word in language.colours.values()]
        assert all(one != other for one, other in itertools.permutations(phrases, 2))
