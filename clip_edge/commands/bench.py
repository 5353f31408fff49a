"""`clip-edge bench`: latency, throughput, memory and cold start of bundles, from encoded pictures and sentences."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_edge.cli import Outcome
from clip_edge.console import Console
from clip_edge.errors import ClipEdgeError, ExitCode, UsageError, unknown_name

if TYPE_CHECKING:
    from clip_edge.benchmarks.devices.remote import Remote
    from clip_edge.benchmarks.plan import Plan, Selection
    from clip_edge.benchmarks.report import Report
    from clip_edge.benchmarks.workload import Workload

SCENARIOS = ("single-stream", "multi-stream", "offline", "cold-start", "soak")
MIN_BUDGET_S = 0.1
HERE = "here"
PHONE = "iphone:"
# What --suite says instead; None until given, so that both at once can be refused.
SWEEP: dict[str, Any] = {
    "backend": "onnxruntime",
    "peers": "",
    "batch": "1",
    "threads": "1",
    "scenario": "single-stream",
    "budget": 10.0,
    "soak": 120.0,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="folders made by `clip-edge export`")
    parser.add_argument("--suite", metavar="NAME|F", help="a suite of ours, such as quick, or a TOML file")
    parser.add_argument("--backend", metavar="NAME,…", help="engines (default: onnxruntime)")
    parser.add_argument("--peers", metavar="NAME,…", help="other tools to measure beside ours, or `all`")
    parser.add_argument("--batch", metavar="N,…", help="pictures or sentences per query (default: 1)")
    parser.add_argument("--threads", metavar="N,…", help="threads of the engine (default: 1)")
    parser.add_argument("--scenario", metavar="NAME,…", help=f"of {', '.join(SCENARIOS)} (default: single-stream)")
    parser.add_argument("--budget", type=float, metavar="S", help="at most this many seconds per row (default: 10)")
    parser.add_argument("--soak", type=float, metavar="S", help="the length of scenario soak (default: 120)")
    parser.add_argument(
        "--device", nargs="+", default=[], metavar="D", help="here, ssh://user@host, adb:SERIAL or iphone:FILE.json"
    )
    parser.add_argument(
        "--program", nargs="+", type=Path, default=[], metavar="DIR", help="clip-edge-cli and libraries for --device"
    )
    parser.add_argument("--emulator", default="", metavar="WORDS", help="what --device runs the program with")
    parser.add_argument("--image", nargs="+", type=Path, default=[], metavar="F", help="pictures to measure with")
    parser.add_argument("--text", nargs="+", default=[], metavar="T", help="sentences to measure with")
    parser.add_argument("--ceilings", action="store_true", help="measure what the machine can do, and each row's share")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report.json, report.md and report.html")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="an older report; exit 1 if a row is slower")
    parser.add_argument("--dry-run", action="store_true", help="list what would be measured, and stop")


def run(args: argparse.Namespace, console: Console) -> Outcome:
    from clip_edge.benchmarks.ceilings import need_packages
    from clip_edge.benchmarks.compare import compare_reports, refuse_unlike
    from clip_edge.benchmarks.environment import read_environment
    from clip_edge.benchmarks.plan import settings_of
    from clip_edge.benchmarks.report import read_report, report_dict
    from clip_edge.benchmarks.runner import measure
    from clip_edge.files import refuse_existing, write_json

    plan = _plan(args)
    here, remotes = not args.device or HERE in args.device, _remotes(args)
    if args.dry_run:
        return _show_plan(plan, console)
    old = None if args.compare is None else read_report(args.compare)
    if old is not None:
        refuse_unlike(old, settings_of(plan), read_environment(), old_path=args.compare)
    if args.out is not None:
        refuse_existing(args.out)
        _need_templates()
    if args.ceilings:
        need_packages()
    kept = None if args.out is None else args.out.with_name(f"{args.out.name}.partial.json")
    keep = (lambda partial: None) if kept is None else (lambda partial: write_json(kept, report_dict(partial)))
    report = measure(plan, console, here=here, remotes=remotes, phones=_phones(args), keep=keep)
    if args.ceilings and not report.interrupted:
        report = _with_ceilings(report, plan, console)
    if old is not None and report.results:
        report = replace(report, compare=compare_reports(old, report, old_path=args.compare))
    show(report, console)  # first: the disk may be full
    if args.out is not None:
        write_reports(report, args.out)
    if kept is not None:
        kept.unlink(missing_ok=True)
    if report.interrupted:
        console.warn("interrupted: these are the rows that were measured until then")
        return Outcome(report_dict(report), ExitCode.INTERRUPTED)
    slower = any(item.change.verdict == "slower" for item in report.compare)
    return Outcome(report_dict(report), ExitCode.NO if slower or not report.results else ExitCode.OK)


def _with_ceilings(report: Report, plan: Plan, console: Console) -> Report:
    """What was measured is not lost when the ceilings cannot be measured."""
    from clip_edge.benchmarks.ceilings import with_ceilings
    from clip_edge.export.flops import flops_of

    console.say("measuring the fastest matrix products and copies")
    try:
        return with_ceilings(report, plan, flops_of)
    except ClipEdgeError as problem:
        console.warn(problem.what)
        return replace(report, warnings=(*report.warnings, problem.what))


def _plan(args: argparse.Namespace) -> Plan:
    from clip_edge.benchmarks.plan import make_plan
    from clip_edge.benchmarks.suites import read_suite

    given = [name for name in SWEEP if getattr(args, name) is not None]
    if args.suite is None:
        selections: tuple[Selection, ...] = (_selection(args),)
    elif given:
        raise UsageError(f"--suite says what is measured: leave out --{given[0]}", hint="or copy the suite and edit it")
    else:
        selections = read_suite(args.suite).rows
    return make_plan(args.bundles, selections, _workload(args))


def _remotes(args: argparse.Namespace) -> list[Remote]:
    from clip_edge.benchmarks.devices import open_device
    from clip_edge.benchmarks.devices.remote import Remote, find_program

    words = [word for word in args.device if word != HERE and not word.startswith(PHONE)]
    if not words:
        return []
    program = find_program(args.program, shlex.split(args.emulator))
    return [Remote(open_device(word), program) for word in words]


def _phones(args: argparse.Namespace) -> list[Path]:
    return [Path(word.removeprefix(PHONE)) for word in args.device if word.startswith(PHONE)]


def _selection(args: argparse.Namespace) -> Selection:
    from clip_edge.benchmarks.peers import PEERS
    from clip_edge.benchmarks.plan import Selection
    from clip_edge.runtime.backends import BACKENDS

    told = {name: default if getattr(args, name) is None else getattr(args, name) for name, default in SWEEP.items()}
    for name in ("budget", "soak"):
        if told[name] < MIN_BUDGET_S:
            raise UsageError(f"--{name} must be at least {MIN_BUDGET_S} seconds; found {told[name]:g}")
    peers = _names("peer", told["peers"], ("all", *PEERS)) if told["peers"] else []
    return Selection(
        backends=tuple(_names("backend", told["backend"], tuple(BACKENDS))),
        peers=("*",) if "all" in peers else tuple(peers),
        batches=tuple(_numbers("--batch", told["batch"])),
        threads=tuple(_numbers("--threads", told["threads"])),
        scenarios=tuple(_names("scenario", told["scenario"], SCENARIOS)),  # type: ignore[arg-type]  # just checked
        budget_s=told["budget"],
        soak_s=told["soak"],
    )


def _workload(args: argparse.Namespace) -> Workload | None:
    from clip_edge.benchmarks.workload import from_files

    if bool(args.image) != bool(args.text):
        raise UsageError("--image and --text go together", hint="both towers are measured: give pictures and sentences")
    return from_files(args.image, args.text) if args.image else None


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _names(kind: str, text: str, known: tuple[str, ...]) -> list[str]:
    words = _words(text)
    for word in words:
        if word not in known:
            raise unknown_name(kind, word, known)
    if not words:
        raise UsageError(f"--{kind} names nothing", hint=f"known: {', '.join(known)}")
    return words


def _numbers(option: str, text: str) -> list[int]:
    words = _words(text)
    if not words or not all(word.isascii() and word.isdigit() and 1 <= int(word) <= 4096 for word in words):
        raise UsageError(f"{option} must be numbers from 1 to 4096, such as 1,8; found `{text}`")
    return [int(word) for word in words]


def _need_templates() -> None:
    """Say before minutes of measuring, not after, that the page cannot be written."""
    from clip_edge.benchmarks.page import environment

    environment()


def write_reports(report: Report, out: Path) -> None:
    """report.json, report.md and report.html in the new folder `out`."""
    from clip_edge.benchmarks.page import Page, render
    from clip_edge.benchmarks.report import report_dict
    from clip_edge.benchmarks.tables import markdown
    from clip_edge.files import new_folder, write_file, write_json

    with new_folder(out) as folder:
        write_json(folder / "report.json", report_dict(report))
        write_file(folder / "report.md", markdown(report).encode())
        write_file(folder / "report.html", render(Page(title="clip-edge bench", report=report)))


def show(report: Report, console: Console) -> None:
    """The table on stdout; settings and warnings around it."""
    from clip_edge.benchmarks.tables import ceiling_line, change_line, shared, standings_table, table

    columns, cells = table(report.results)
    fixed = ", ".join(f"{name} {value}" for name, value in shared(report.results).items())
    console.table(columns, cells, title=fixed or None)
    columns, cells = standings_table(report.results)
    if cells:
        console.table(columns, cells, title="ours beside the fastest peer")
    for ceiling in report.ceilings:
        console.out(ceiling_line(ceiling))
    for item in report.compare:
        console.out(change_line(item))
    for failure in report.failures:
        console.out(f"not measured: {failure.row}: {failure.reason}")
    for warning in report.warnings:
        console.warn(warning)


def _show_plan(plan: Plan, console: Console) -> Outcome:
    names = ("bundle", "tower", "backend", "batch", "threads", "scenario")
    rows = [[getattr(cell, name) for name in names] for cell in plan.cells]
    console.table(names, rows, title=f"{len(rows)} rows, at most {plan.longest_s:.0f} s of measuring")
    work = plan.workload
    console.out(f"with {len(work.images)} pictures and {len(work.texts)} sentences ({work.source})")
    for failure in plan.skipped:
        console.out(f"not measured: {failure.row}: {failure.reason}")
    data = {
        "rows": [dict(zip(names, row, strict=True)) for row in rows],
        "longest_s": plan.longest_s,
        "workload": {"images": len(work.images), "texts": len(work.texts), "sha256": work.sha256},
    }
    return Outcome(data)
