"""Sentences around a class name for zero-shot classification, in the fourteen languages of the built-in data set.

The name is put in as it stands, so every template is one in which a noun needs neither article, case nor gender.
The bare name comes first; the embeddings of all of them are averaged (Radford et al. 2021, section 3.1.4).
"""

from __future__ import annotations

from clip_edge.errors import UsageError

TEMPLATES: dict[str, tuple[str, ...]] = {
    "ar": ("{}", "صورة: {}", "رسم: {}", "رمز: {}"),
    "de": ("{}", "ein Bild: {}", "eine Zeichnung: {}", "ein Symbol: {}"),
    "en": ("{}", "a picture of {}", "a drawing of {}", "an icon of {}"),
    "es": ("{}", "una imagen: {}", "un dibujo: {}", "un icono: {}"),
    "fa": ("{}", "تصویر: {}", "نقاشی: {}", "نماد: {}"),
    "fr": ("{}", "une image : {}", "un dessin : {}", "une icône : {}"),
    "id": ("{}", "gambar {}", "lukisan {}", "ikon {}"),
    "it": ("{}", "un'immagine: {}", "un disegno: {}", "un'icona: {}"),
    "ja": ("{}", "{}の画像", "{}の絵", "{}のアイコン"),
    "ko": ("{}", "{} 사진", "{} 그림", "{} 아이콘"),
    "pt": ("{}", "uma imagem: {}", "um desenho: {}", "um ícone: {}"),
    "ru": ("{}", "картинка: {}", "рисунок: {}", "значок: {}"),
    "tr": ("{}", "bir resim: {}", "bir çizim: {}", "bir simge: {}"),
    "zh": ("{}", "{}的图片", "{}的图画", "{}的图标"),
}


def templates_for(lang: str) -> tuple[str, ...]:
    """The templates of `lang`; a language without any ("" is an unknown one) gets the bare name."""
    return TEMPLATES.get(lang, ("{}",))


def check_template(template: str) -> str:
    """`template` when it has exactly one place for the name.

    Raises:
        UsageError: no `{}`, or several.
    """
    if template.count("{}") != 1:
        raise UsageError(
            f"a template needs exactly one {{}} for the class name; found `{template}`",
            hint='for example: --template "a photo of a {}"',
        )
    return template
