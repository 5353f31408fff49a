"""Writes unicode_tables.inc and html_entities.inc from Python's own `unicodedata` and `html.entities`.

Run it again with the Python whose behaviour the library is to have: python -m clip_edge.runtime.src.generate_tables
"""

from __future__ import annotations

import html
import html.entities
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

HERE = Path(__file__).parent
POINTS = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
SIGMA = "\u03a3"


def main() -> None:
    """Write both files beside this one."""
    (HERE / "unicode_tables.inc").write_text(unicode_tables(), encoding="ascii")
    (HERE / "html_entities.inc").write_text(entity_table(), encoding="ascii")


def unicode_tables() -> str:
    """White space; normal forms; lower case."""
    parts = [
        f"// Unicode {unicodedata.unidata_version}. Made by generate_tables.py: change that, not this.",
        ranges("kPythonSpaces", str.isspace),
        ranges("kCasedForSigma", ends_word),
        ranges("kIgnoredForSigma", lambda char: not ends_word(char) and ("A" + char + SIGMA).lower()[-1] == "ς"),
        strings("Canonical", lambda char: decomposition("NFD", char)),
        strings("Compatible", lambda char: decomposition("NFKD", char)),
        strings("Lower", lambda char: char.lower() if char.lower() != char else None),
        combining_classes(),
        compositions(),
    ]
    return "\n".join(parts) + "\n"


def ends_word(char: str) -> bool:
    """A cased character that the rule for the last sigma of a word does not skip."""
    return (char + SIGMA).lower()[-1] == "ς"


def decomposition(form: str, char: str) -> str | None:
    """None where nothing changes, where arithmetic does it (Hangul), and for NFKD where NFD does it already."""
    decomposed = unicodedata.normalize(form, char)  # type: ignore[arg-type]
    if decomposed == char or 0xAC00 <= ord(char) <= 0xD7A3:
        return None
    return None if form == "NFKD" and decomposed == unicodedata.normalize("NFD", char) else decomposed


def ranges(name: str, belongs: Callable[[str], bool]) -> str:
    """A sorted table of first and last code points."""
    found: list[list[int]] = []
    for point in POINTS:
        if belongs(chr(point)):
            if found and found[-1][1] == point - 1:
                found[-1][1] = point
            else:
                found.append([point, point])
    return table(f"constexpr Range {name}[]", (f"{{{first:#x},{last:#x}}}" for first, last in found))


def strings(name: str, change: Callable[[str], str | None]) -> str:
    """Two tables: code point, start and length; and the code points that they point to."""
    index: list[str] = []
    points: list[str] = []
    for point in POINTS:
        changed = change(chr(point))
        if changed is not None:
            index.append(f"{{{point:#x},{len(points)},{len(changed)}}}")
            points += [f"{ord(char):#x}" for char in changed]
    return table(f"constexpr Mapping k{name}[]", index) + "\n" + table(f"constexpr char32_t k{name}Points[]", points)


def combining_classes() -> str:
    rows: list[list[int]] = []
    for point in POINTS:
        value = unicodedata.combining(chr(point))
        if value and rows and rows[-1][1] == point - 1 and rows[-1][2] == value:
            rows[-1][1] = point
        elif value:
            rows.append([point, point, value])
    return table("constexpr ClassRange kCombining[]", (f"{{{a:#x},{b:#x},{c}}}" for a, b, c in rows))


def compositions() -> str:
    """Pairs that canonical composition joins, sorted; Hangul is left to arithmetic."""
    rows = []
    for point in POINTS:
        parts = unicodedata.decomposition(chr(point)).split()
        if len(parts) == 2 and parts[0][0] != "<" and unicodedata.normalize("NFC", chr(point)) == chr(point):
            rows.append((int(parts[0], 16), int(parts[1], 16), point))
    return table("constexpr Composition kCompositions[]", (f"{{{a:#x},{b:#x},{c:#x}}}" for a, b, c in sorted(rows)))


def entity_table() -> str:
    """HTML 5 names without `&`; `shouted` ones are upper-case spellings that ftfy reads and HTML does not."""
    names = {name: (value, False) for name, value in html.entities.html5.items()}
    for name, value in html.entities.html5.items():
        shouted = name.upper()
        if name.endswith(";") and name == name.lower() and html.unescape("&" + shouted) == "&" + shouted:
            names[shouted] = (value.upper(), True)
    rows = (f'{{"{name}","{escaped(names[name][0])}",{int(names[name][1])}}}' for name in sorted(names))
    head = "// HTML 5 entities. Made by generate_tables.py: change that, not this.\n"
    return head + table("constexpr Entity kEntities[]", rows) + "\n"


def escaped(text: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in text.encode())


def table(declaration: str, items: Iterable[str]) -> str:
    """Rows of at most 118 characters; no item is broken."""
    lines, line = [], ""
    for item in items:
        if len(line) + len(item) > 117:
            lines.append(line)
            line = ""
        line += item + ","
    return "\n".join([f"{declaration} = {{", *lines, line, "};"])


if __name__ == "__main__":
    main()
