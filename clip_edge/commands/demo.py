"""`clip-edge demo`: the whole road, from pictures to a measured model and a page that shows it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from clip_edge.cli import Outcome
from clip_edge.console import Console
from clip_edge.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="where to work (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, for a look; reaches no goals")
    parser.add_argument("--dry-run", action="store_true", help="print the command lines, and stop")


def run(args: argparse.Namespace, console: Console) -> Outcome:
    from clip_edge.demo import FULL, QUICK, plan, run_steps

    size = QUICK if args.quick else FULL
    if args.dry_run:
        commands = [step.command for step in plan(args.out, size)]
        for command in commands:
            console.out(command)
        return Outcome({"dry_run": True, "commands": commands})
    from clip_edge.benchmarks.page import render
    from clip_edge.commands.demo_page import checks, make_page, summary
    from clip_edge.files import write_file, write_json

    results = run_steps(args.out, size, console)
    judged = checks(results, args.out, size.goals)
    page = args.out / "report.html"
    write_file(page, render(make_page(args.out, results, judged)))
    told = summary(results, args.out, judged, page)
    write_json(args.out / "demo.json", told)
    _show(told, console)
    console.out(f"\nopen {page}")
    return Outcome(told, ExitCode.OK if told["passed"] else ExitCode.NO)


def _show(told: dict[str, Any], console: Console) -> None:
    rows = [
        [model, split, lang, *(f"{100 * found['text_to_image'][f'recall_at_{k}']['value']:.1f} %" for k in (1, 5, 10))]
        for model in ("teacher", "student")
        for split, languages in told[model].items()
        for lang, found in languages.items()
    ]
    console.out()
    console.table(("model", "pictures", "language", ">R@1", ">R@5", ">R@10"), rows, title="text to image")
    checks = [(check["name"], check["wanted"], check["found"], _word(check)) for check in told["checks"]]
    console.out()
    console.table(("check", "wanted", ">found", ""), checks, title=f"{told['elapsed_s']:.0f} s in all")


def _word(check: dict[str, Any]) -> str:
    return "ok" if check["passed"] else "FAILED"
