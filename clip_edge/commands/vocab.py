"""`clip-edge vocab`: a student's vocabulary without the tokens that your languages do not need, or one of your own."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from clip_edge.cli import Outcome
from clip_edge.console import Console
from clip_edge.errors import UsageError
from clip_edge.files import human_bytes, refuse_existing, write_file

if TYPE_CHECKING:
    from clip_edge.distill.vocabulary.corpus import Corpus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="trim|train")
    trim = actions.add_parser("trim", help="keep the tokens that a corpus needs, and prove that nothing else changed")
    trim.add_argument("model", type=Path, metavar="MODEL", help="a student folder or run")
    trim.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the student folder to make")
    train = actions.add_parser("train", help="learn a vocabulary from a corpus, for a student's `tokenizer.file`")
    train.add_argument("--size", type=int, required=True, metavar="N", help="tokens at most, 259 or more")
    train.add_argument("--out", type=Path, required=True, metavar="tokenizer.json", help="the file to write")
    for action in (trim, train):
        action.add_argument(
            "--corpus",
            type=Path,
            action="append",
            default=[],
            metavar="FILE",
            help="a .txt file with a sentence on each line, or a data set with captions; may be repeated",
        )
        action.add_argument("--langs", default="", metavar="L,L", help="also the built-in names and captions, as en,zh")


def run(args: argparse.Namespace, console: Console) -> Outcome:
    from clip_edge.distill.vocabulary.corpus import read_corpus

    refuse_existing(args.out)
    langs = [lang.strip() for lang in args.langs.split(",") if lang.strip()]
    corpus = read_corpus(args.corpus, langs)
    for name, count in corpus.left_out.items():
        samples = "1 sample" if count == 1 else f"{count:,} samples"
        console.warn(
            f"{samples} of {name} cannot be read, and their captions do not count; `clip-edge data check` names all"
        )
    return (_trim if args.action == "trim" else _train)(args, corpus, console)


def _trim(args: argparse.Namespace, corpus: Corpus, console: Console) -> Outcome:
    from clip_edge.distill.models.checkpoint import load_student
    from clip_edge.distill.vocabulary.model import trim_student

    report = trim_student(load_student(args.model), corpus.sentences, args.out, console=console)
    rows = [
        ("tokens", f"{report.tokens_before:,}", f"{report.tokens_after:,}"),
        ("embedding table", human_bytes(report.table_bytes_before), human_bytes(report.table_bytes_after)),
        ("text tower, parameters", f"{report.text_parameters_before:,}", f"{report.text_parameters_after:,}"),
    ]
    console.table(("", ">before", ">after"), rows, title=str(args.out))
    parts = ", ".join(f"{name} {count:,}" for name, count in report.tokens_used.items())
    console.out(f"tokens that each part of the corpus needs: {parts}")
    console.out(f"{report.sentences:,} sentences compared: the same tokens, the same embeddings to the bit")
    return Outcome({"student": str(args.out), "samples_left_out": corpus.left_out, **dataclasses.asdict(report)})


def _train(args: argparse.Namespace, corpus: Corpus, console: Console) -> Outcome:
    from clip_edge.distill.models.tokenizers import train_tokenizer

    if args.out.suffix != ".json":
        raise UsageError(f"--out names a .json file; found {args.out}")
    parts = corpus.sentences
    texts = list(dict.fromkeys(text for part in parts.values() for text in part))
    made = train_tokenizer(texts, args.size, context_length=4096)
    write_file(args.out, made.json_bytes)
    lengths = {name: sum(len(made.encode(text)) for text in part) / max(len(part), 1) for name, part in parts.items()}
    console.table(
        ("part of the corpus", ">sentences", ">tokens per sentence"),
        [(name, f"{len(part):,}", f"{lengths[name]:.1f}") for name, part in parts.items()],
        title=str(args.out),
    )
    found = {"tokenizer": str(args.out), "size": args.size, "tokens_per_sentence": lengths}
    return Outcome(found | {"samples_left_out": corpus.left_out})
