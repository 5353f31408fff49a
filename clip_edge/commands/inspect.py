"""`clip-edge inspect`: what a data set, student, run, bundle or report is, and whether it is whole."""

from __future__ import annotations

import argparse
from pathlib import Path

from clip_edge.cli import Outcome
from clip_edge.console import Console
from clip_edge.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help="a folder, or a report.json")


def run(args: argparse.Namespace, console: Console) -> Outcome:
    from clip_edge.inspection import inspect, size_words
    from clip_edge.schema import as_dict

    found = inspect(args.path)
    rows = [(name.replace("_", " "), size_words(name, value)) for name, value in found.facts.items()]
    rows.append(("licences", "\n".join(found.licences) or "–"))
    if found.research_only:
        rows.append(("use", "RESEARCH ONLY"))
    console.table(("", ""), rows, title=f"{found.kind}: {found.path}")
    for problem in found.problems:
        console.warn(problem)
    return Outcome(as_dict(found), ExitCode.NO if found.problems else ExitCode.OK)
