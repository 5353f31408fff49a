"""The section about trimmed vocabularies says what the results say, and the page holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clip_edge.benchmarks.dc_clip.vocabularies import word_piece
from clip_edge.benchmarks.dc_clip.vocabulary import LANGS, RESULTS, TABLES, TITLE, section, with_section
from clip_edge.files import read_json
from clip_edge.tokenizer import TextSpec, Tokenizer

PAGE = Path(__file__).parents[3] / "docs" / "vocabulary.md"


def cut(langs: str, difference: float) -> dict[str, Any]:
    trim = {"tokens_before": 9000, "tokens_after": 900, "table_bytes_before": 9_000_000, "table_bytes_after": 900_000}
    trim |= {"sentences": 500}
    return {
        "langs": langs,
        "trim": trim,
        "graph": {"fp32": 1_000_000},
        "compared": 40,
        "greatest_difference": difference,
    }


@pytest.mark.parametrize(("difference", "said"), [(0.0, "equal to the bit"), (2e-7, "at most 2e-07 apart")])
def test_every_table_and_how_far_embeddings_are_apart(difference: float, said: str) -> None:
    found = {"graph": {"fp32": 2_000_000, "int8": 500_000}, "cut": [cut("en,zh", 0.0), cut("ar,ja", difference)]}
    text = section({"text": {"depth": 1, "width": 8}, "tables": {"bpe": found}})
    assert f"| {TABLES['bpe'].title} | whole | 9,000 | 9.0 MB | 2.0 MB | 500.0 kB |" in text
    assert "| | ar,ja | 900 | 900.0 kB | 1.0 MB | - |" in text.replace("|  |", "| |")
    assert "together 1,000 sentences" in text
    assert f"on 80 of them: {said}" in text


def test_the_page_holds_the_committed_results() -> None:
    results, page = read_json(RESULTS), PAGE.read_text(encoding="utf-8")
    assert with_section(page, results) == page
    assert (
        with_section(f"# a\n\n{TITLE}\n\nold\n\n## next\n\nb\n", results)
        == f"# a\n\n{section(results)}\n\n## next\n\nb\n"
    )


def test_the_committed_results_cover_every_table() -> None:
    tables = read_json(RESULTS)["tables"]
    for name, table in TABLES.items():
        assert tables[name]["rows"] == table.rows
        assert [one["langs"] for one in tables[name]["cut"]] == list(LANGS)
        assert all(one["trim"]["tokens_before"] == table.rows for one in tables[name]["cut"])


def test_a_vocabulary_in_lines_becomes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##b\n\x85\n", encoding="utf-8")
    tokenizer = Tokenizer(word_piece(path), TextSpec(8, 7, pad_id=0, bos_id=2, eos_id=3, clean="none"))
    assert tokenizer(["AB c"]).tolist() == [[2, 4, 5, 1, 3, 0, 0, 0]]
