"""Writes mojibake.inc: what the package ftfy knows of text that was decoded with the wrong encoding.

Its two regular expressions are read as data: every class of characters in them becomes one bit of a mask, every
alternative a row of classes. Run it again when ftfy changes: python -m clip_edge.runtime.src.generate_mojibake
"""

from __future__ import annotations

import re
import re._parser as parser  # type: ignore[import-not-found]
from importlib.metadata import version
from itertools import product
from typing import Any

import ftfy.badness
import ftfy.chardata

from clip_edge.runtime.src.generate_tables import HERE, POINTS, table

MARKS = ("First2", "First3", "First4", "Follows", "Blocks")
CLUES = ("utf8_first_of_2", "utf8_first_of_3", "utf8_first_of_4", "utf8_continuation", "utf8_continuation_strict")


class Classes:
    """Sets of characters, each with a number."""

    def __init__(self) -> None:
        self.sets: list[frozenset[int]] = []

    def number(self, members: frozenset[int]) -> str:
        """`n`; `~n` for a set that is stored as its complement; the one character of a set is its number plus 64."""
        if len(members) == 1:
            return str(64 + min(members))
        everything = frozenset(POINTS)
        small = members if len(members) < len(everything) // 2 else everything - members
        if small not in self.sets:
            self.sets.append(small)
        return str(self.sets.index(small)) if small is members else f"~{self.sets.index(small)}"


def main() -> None:
    """Write the file beside this one."""
    (HERE / "mojibake.inc").write_text(tables(), encoding="ascii")


def tables() -> str:
    """Rules of badness, classes of characters, encodings."""
    classes = Classes()
    rules = [rule for sequence in alternatives() for rule in expand(sequence, classes)]
    rows = (f"{{{int(start)},{len(found)},{{{','.join(found)}}}}}" for start, found in rules)
    clues = [classes.number(members_of(f"[{ftfy.chardata.UTF8_CLUES[name]}]")) for name in CLUES]
    return "\n".join(
        [
            f"// ftfy {version('ftfy')}. Made by generate_mojibake.py: change that, not this.",
            table("constexpr Rule kRules[]", rows),
            *(f"constexpr int8_t k{name} = {number};" for name, number in zip(MARKS, clues, strict=True)),
            masks(classes),
            encodings(),
            "",
        ]
    )


def alternatives() -> list[Any]:
    """The alternatives of the expression that tells bad text, as Python's own parser reads them."""
    parsed = parser.parse(ftfy.badness.BADNESS_RE.pattern, ftfy.badness.BADNESS_RE.flags)
    (kind, (_, branches)) = parsed[0]
    assert (len(parsed), str(kind)) == (1, "BRANCH")
    return [list(branch) for branch in branches]


def expand(sequence: list[Any], classes: Classes) -> list[tuple[bool, list[str]]]:
    """One alternative as rows of classes: an optional class makes two of it."""
    start, choices = False, []
    for kind, argument in sequence:
        name = str(kind)
        if name == "AT":
            start = True
        elif name == "MAX_REPEAT":
            least, most, inner = argument
            assert (least, most, len(inner)) == (0, 1, 1)
            choices.append([[], [classes.number(element(str(inner[0][0]), inner[0][1]))]])
        else:
            choices.append([[classes.number(element(name, argument))]])
    return [(start, [part for group in chosen for part in group]) for chosen in product(*choices)]


def element(kind: str, argument: Any) -> frozenset[int]:
    """The characters that one element of an expression matches."""
    if kind == "LITERAL":
        return frozenset([argument])
    if kind == "ANY":
        return frozenset(POINTS) - {10}
    if kind == "RANGE":
        return frozenset(range(argument[0], argument[1] + 1))
    if kind == "CATEGORY":
        return members_of({"CATEGORY_SPACE": r"\s", "CATEGORY_WORD": r"\w"}[str(argument)])
    assert kind == "IN", kind
    parts = [(str(name), value) for name, value in argument]
    negated = parts[0][0] == "NEGATE"
    found = frozenset().union(*(element(name, value) for name, value in parts[negated:]))
    return frozenset(POINTS) - found if negated else found


def members_of(expression: str) -> frozenset[int]:
    """The characters that a class matches."""
    return frozenset(map(ord, re.findall(expression, "".join(map(chr, POINTS)))))


def masks(classes: Classes) -> str:
    """Ranges of characters that belong to the same classes."""
    assert len(classes.sets) <= 64, len(classes.sets)
    found: dict[int, int] = {}
    for number, points in enumerate(classes.sets):
        for point in points:
            found[point] = found.get(point, 0) | 1 << number
    rows: list[list[int]] = []
    for point in sorted(found):
        if rows and rows[-1][1] == point - 1 and rows[-1][2] == found[point]:
            rows[-1][1] = point
        else:
            rows.append([point, point, found[point]])
    return table("constexpr Membership kMembers[]", (f"{{{a:#x},{b:#x},{c:#x}}}" for a, b, c in rows))


def encodings() -> str:
    """What the upper 128 bytes of each encoding stand for, in the order in which ftfy tries them."""
    rows = []
    for name in ftfy.chardata.CHARMAP_ENCODINGS:
        points = [f"{ord(char):#x}" for char in bytes(range(0x80, 0x100)).decode(name)]
        lines = ",\n".join(",".join(points[start : start + 16]) for start in range(0, 128, 16))
        rows.append(f"{{{int(name.startswith('sloppy'))},{int(name == 'macroman')},{{{lines}}}}}")
    return "constexpr Encoding kEncodings[] = {\n" + ",\n".join(rows) + "};"


if __name__ == "__main__":
    main()
