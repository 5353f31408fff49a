"""What `vocab trim` saves of the tables that multilingual and English CLIPs have, and that nothing else changed.

    pip download --no-deps cn-clip==1.6.0 && unzip cn_clip-1.6.0-py3-none-any.whl cn_clip/clip/vocab.txt
    python -m clip_edge.benchmarks.dc_clip.vocabulary --work DIR --wordpiece cn_clip/clip/vocab.txt

CLIP's BPE and Chinese-CLIP's WordPiece are the real ones. XLM-R's Unigram cannot be had without a network: a vocabulary
of its size is made (`vocabularies.py`). Embeddings are random, as trimming depends on ids alone. Results are written
after every part, and finished parts are kept. `--page docs/vocabulary.md` writes the section there anew.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clip_edge import runtime
from clip_edge.benchmarks.dc_clip.vocabularies import unigram, word_piece
from clip_edge.benchmarks.environment import read_environment
from clip_edge.benchmarks.training import call, once, options
from clip_edge.distill.models.checkpoint import save_student
from clip_edge.distill.models.foreign_tokenizers import read_tokenizer
from clip_edge.distill.models.spec import ImageSpec, StudentSpec, TextTowerSpec, TokenizerSpec
from clip_edge.distill.models.student import build_student
from clip_edge.distill.models.tokenizers import CLIP_VOCAB_SIZE, clip_tokenizer
from clip_edge.distill.vocabulary.corpus import builtin_sentences
from clip_edge.files import human_bytes, new_folder, read_json, write_file, write_json
from clip_edge.tokenizer import Cleaning, Tokenizer

RESULTS = Path(__file__).parent / "vocabulary.json"
UNIGRAM_ROWS, WORD_PIECE_ROWS = 250_002, 21_128
LANGS = ("en,zh", "ar,ja,ko,ru")
GRAPHS = {"fp32": "text_model.onnx", "int8": "text_model_int8.onnx"}
COMPARED = 400  # sentences that the exported graphs are compared on
TEXT = TextTowerSpec(depth=1, width=128, heads=4, context_length=32, causal=False, pad_mask=True)
TITLE = "## What it saves"
CALIBRATION = {"images": 64, "eval-images": 16, "emojis": 60, "unseen": 10, "size": 32, "langs": "en,zh,ar,ja,ko,ru"}


@dataclasses.dataclass(frozen=True)
class Table:
    """A vocabulary to make smaller."""

    title: str
    rows: int
    real: bool
    precisions: tuple[str, ...]  # of the exported graphs; int8 of a large table takes gigabytes and minutes
    make: Callable[[Path, Path], Tokenizer]  # (work folder, WordPiece file) -> the tokenizer


def main() -> None:
    """Make what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for students and bundles (about 2 GB)")
    parser.add_argument("--wordpiece", type=Path, help="vocab.txt of the package cn-clip")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write (default: %(default)s)")
    parser.add_argument("--page", type=Path, help="measure nothing; put the results into this page")
    args = parser.parse_args()
    if args.page:
        write_file(args.page, with_section(args.page.read_text(encoding="utf-8"), read_json(args.results)).encode())
    else:
        measure(args.work, args.wordpiece, args.results)


def measure(work: Path, wordpiece: Path, results: Path) -> None:
    """Every vocabulary, trimmed for every group of languages; `results` is written again after each."""
    once(work / "calibration.json", ["data", "emoji", "--out", str(work / "calibration"), *options(CALIBRATION)])
    for name in TABLES:
        folder = work / name
        if not (folder / "whole").is_dir():
            _random_student(name, TABLES[name].make(work, wordpiece), folder / "whole")
        before = _exported(work, folder, "whole")
        for number, langs in enumerate(LANGS):
            note = folder / f"{number}.json"
            if not note.is_file():
                small = f"small-{number}"
                report = call(["vocab", "trim", str(folder / "whole"), "--langs", langs, "--out", str(folder / small)])
                del report["student"]  # a place on this machine
                after = _exported(work, folder, small)
                write_json(note, {"langs": langs, "trim": report, "graph": after} | _differences(folder, small, langs))
            cut = [read_json(done) for done in sorted(folder.glob("[0-9].json"))]
            found = {"rows": TABLES[name].rows, "real": TABLES[name].real, "graph": before, "cut": cut}
            write_json(folder / "found.json", found)
            write_json(results, _collected(work))


def _of_clip(work: Path, wordpiece: Path) -> Tokenizer:
    return clip_tokenizer(TEXT.context_length)


def _of_file(make: Callable[[Path], bytes], rows: int, clean: Cleaning) -> Callable[[Path, Path], Tokenizer]:
    """The tokenizer as a student's specification takes it: from a file."""

    def read(work: Path, wordpiece: Path) -> Tokenizer:
        path = work / f"{rows}.json"
        if not path.is_file():
            write_file(path, make(wordpiece))
        return read_tokenizer(TokenizerSpec("trained", rows, str(path), clean=clean), TEXT.context_length)

    return read


_FILES = {
    "unigram": _of_file(lambda _: unigram(UNIGRAM_ROWS), UNIGRAM_ROWS, "whitespace"),
    "wordpiece": _of_file(word_piece, WORD_PIECE_ROWS, "none"),
}
TABLES = {
    "wordpiece": Table("WordPiece, Chinese-CLIP's own", WORD_PIECE_ROWS, True, ("fp32", "int8"), _FILES["wordpiece"]),
    "bpe": Table("BPE, CLIP's own", CLIP_VOCAB_SIZE, True, ("fp32",), _of_clip),
    "unigram": Table("Unigram, XLM-R's size", UNIGRAM_ROWS, False, ("fp32",), _FILES["unigram"]),
}


def _random_student(name: str, tokenizer: Tokenizer, out: Path) -> None:
    """A student with this vocabulary. Its image tower is only there to be exported with it."""
    image = ImageSpec("timm:resnet10t", 32, args={"channels": [8, 8, 8, 16], "stem_width": 8})
    kind = TokenizerSpec("clip" if name == "bpe" else "trained", tokenizer.vocab_size)
    torch.manual_seed(0)
    student = build_student(StudentSpec(name, 128, image, TEXT, kind), tokenizer)
    with new_folder(out) as folder:
        save_student(folder, student, tokenizer, recipe_toml="", metrics=None, provenance={})


def _exported(work: Path, folder: Path, name: str) -> dict[str, int]:
    """Bytes of the text graph by precision. int8 keeps a layer in more where random weights would lose too much."""
    bundle = folder / f"{name}-onnx"
    precisions = TABLES[folder.name].precisions
    words = ["export", str(folder / name), "--target", "onnx", "--out", str(bundle)]
    words += [word for precision in precisions for word in ("--precision", precision)]
    words += ["--calibration", str(work / "calibration")] if "int8" in precisions else []
    once(folder / f"{name}-onnx.json", words)
    return {precision: (bundle / "onnx" / GRAPHS[precision]).stat().st_size for precision in precisions}


def _differences(folder: Path, small: str, langs: str) -> dict[str, Any]:
    """How far embeddings of the fp32 graphs are apart, on sentences of the corpus."""
    texts = [text for lang in langs.split(",") for text in builtin_sentences(lang)]
    texts = texts[:: max(1, len(texts) // COMPARED)]
    before, after = (runtime.load(folder / f"{name}-onnx", threads=1).encode_texts(texts) for name in ("whole", small))
    return {"compared": len(texts), "greatest_difference": float(np.abs(before - after).max())}


def _collected(work: Path) -> dict[str, Any]:
    tables = {name: read_json(note) for name in TABLES if (note := work / name / "found.json").is_file()}
    text = dataclasses.asdict(TEXT)
    return {"schema": 1, "environment": dataclasses.asdict(read_environment()), "text": text, "tables": tables}


def with_section(page: str, results: dict[str, Any]) -> str:
    """The page with its section `What it saves` made anew."""
    before, rest = page.split(TITLE, 1)
    return f"{before}{section(results)}\n\n## {rest.split(chr(10) + '## ', 1)[1]}"


def section(results: dict[str, Any]) -> str:
    """The section of docs/vocabulary.md."""
    rows = ["| vocabulary | for | rows | table | text graph, fp32 | int8 |", "|---|---|---|---|---|---|"]
    cuts = []
    for name, found in results["tables"].items():
        whole = found["cut"][0]["trim"]
        first = (TABLES[name].title, "whole", whole["tokens_before"], whole["table_bytes_before"], found["graph"])
        rows.append(_row(*first))
        for cut in found["cut"]:
            trim = cut["trim"]
            rows.append(_row("", cut["langs"], trim["tokens_after"], trim["table_bytes_after"], cut["graph"]))
            cuts.append(cut)
    sentences = sum(cut["trim"]["sentences"] for cut in cuts)
    apart, compared = max(cut["greatest_difference"] for cut in cuts), sum(cut["compared"] for cut in cuts)
    text = results["text"]
    same = "equal to the bit" if apart == 0 else f"at most {apart:.0e} apart in any value"
    return f"""{TITLE}

For the built-in names and captions, with a text tower of {text["depth"]} layer, {text["width"]} wide, and random
weights (which ids are needed does not depend on them; a table's bytes grow with the width):

{chr(10).join(rows)}

In all of them together {sentences:,} sentences were compared: the same ids row by row, and embeddings of PyTorch that
are equal to the bit. Embeddings of the exported fp32 graphs, on {compared:,} of them: {same}.

CLIP's and Chinese-CLIP's vocabularies are the real ones. The Unigram has XLM-R's size, and is no substitute for its
pieces: it was learnt from the built-in captions in fourteen languages and filled with made-up words, so XLM-R itself
would keep another number of rows. `benchmarks/dc_clip/vocabulary.py` makes these figures; `vocabulary.json` beside it
has all of them."""


def _row(title: str, langs: str, rows: int, table: int, graph: dict[str, int]) -> str:
    sizes = (human_bytes(size) if size else "-" for size in (table, graph["fp32"], graph.get("int8")))
    return f"| {title} | {langs} | {rows:,} | {' | '.join(sizes)} |"


if __name__ == "__main__":
    main()
