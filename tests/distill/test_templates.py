"""Zero-shot templates: every language of the built-in data, each with a place for the name."""

from __future__ import annotations

import pytest

from clip_edge.distill.templates import TEMPLATES, check_template, templates_for
from clip_edge.errors import ExitCode, UsageError

LANGUAGES = ["ar", "de", "en", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh"]


def test_fourteen_languages():
    assert sorted(TEMPLATES) == LANGUAGES


@pytest.mark.parametrize("lang", LANGUAGES)
def test_templates_are_several_different_and_have_one_place(lang: str):
    templates = templates_for(lang)
    assert templates[0] == "{}"
    assert len(set(templates)) == len(templates) >= 3
    assert [check_template(template) for template in templates] == list(templates)


def test_a_language_without_templates_gets_the_bare_name():
    assert templates_for("xx") == templates_for("") == ("{}",)


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{0}"])
def test_a_template_without_one_place_is_refused(template: str):
    with pytest.raises(UsageError) as caught:
        check_template(template)
    assert str(caught.value) == (
        f"a template needs exactly one {{}} for the class name; found `{template}`\n"
        '\nhint: for example: --template "a photo of a {}"'
    )
    assert caught.value.exit_code is ExitCode.USAGE
