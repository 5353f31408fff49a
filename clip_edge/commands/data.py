"""`clip-edge data emoji` makes the built-in data set; `clip-edge data check` looks through anybody's."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_edge.cli import Outcome
from clip_edge.console import Console
from clip_edge.errors import ExitCode, UsageError
from clip_edge.files import human_bytes, refuse_existing, write_file

if TYPE_CHECKING:
    from clip_edge.distill.data.check import CheckReport

PROBLEMS_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="emoji|check")
    emoji = actions.add_parser("emoji", help="make the built-in data set: scenes of OpenMoji drawings with captions")
    emoji.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    emoji.add_argument("--images", type=int, default=8000, metavar="N", help="training scenes (default: 8000)")
    emoji.add_argument(
        "--eval-images",
        type=int,
        metavar="N",
        help="scenes of each of val, test and unseen (default: 500, or --images if less)",
    )
    emoji.add_argument("--emojis", type=int, metavar="N", help="emoji in all (default: every distinct drawing)")
    emoji.add_argument(
        "--unseen", type=float, default=0.1, metavar="X", help="emoji kept out of training: a share or a number (0.1)"
    )
    emoji.add_argument("--size", type=int, default=96, metavar="PX", help="width and height of a scene (default: 96)")
    emoji.add_argument("--langs", default="en,zh", metavar="L,L", help="languages of the captions (default: en,zh)")
    emoji.add_argument("--objects", default="1-4", metavar="A-B", help="emoji in a scene, within 1-4 (default: 1-4)")
    emoji.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default: 0)")
    emoji.add_argument("--workers", type=int, default=2, metavar="N", help="processes; no effect on the result (2)")
    emoji.add_argument("--dry-run", action="store_true", help="say what would be made, and stop")
    check = actions.add_parser("check", help="count the samples of a data set and name what is wrong with them")
    check.add_argument("data", type=Path, metavar="DATA", help="a folder of tars or of classes, a .csv or a .tsv")
    check.add_argument("--limit", type=int, metavar="N", help="decode at most N samples of each split")
    check.add_argument("--columns", metavar="A,B", help="picture and caption columns of a table (filepath,title)")
    check.add_argument("--sheet", type=Path, metavar="F.png", help="also draw a contact sheet of the first split")


def run(args: argparse.Namespace, console: Console) -> Outcome:
    return _emoji(args, console) if args.action == "emoji" else _check(args, console)


def _emoji(args: argparse.Namespace, console: Console) -> Outcome:
    from clip_edge.distill.data.generate import EmojiOptions, plan, write_emoji

    options = EmojiOptions(
        images=args.images,
        eval_images=args.eval_images,
        emojis=args.emojis,
        unseen=args.unseen,
        size=args.size,
        langs=tuple(word.strip() for word in args.langs.split(",")),
        objects=_range(args.objects),
        seed=args.seed,
        workers=args.workers,
    )
    refuse_existing(args.out)
    planned = plan(options)
    if args.dry_run:
        console.out(
            f"would write {sum(planned['samples'].values())} scenes of up to {planned['emojis']} emoji "
            f"to {args.out}, about {human_bytes(planned['approximate_bytes'])}"
        )
        return Outcome({"dry_run": True, "out": str(args.out), **planned})
    info = write_emoji(args.out, options, console)
    splits = {
        split: {"samples": table["samples"], "bytes": sum(shard["bytes"] for shard in table["shards"])}
        for split, table in info["splits"].items()
    }
    rows = [(split, table["samples"], human_bytes(table["bytes"])) for split, table in splits.items()]
    console.table(("split", ">scenes", ">size"), rows)
    console.out(f"{args.out}: look at {args.out / 'contact-sheet.png'}; licence {info['licence']['name']}")
    return Outcome({"out": str(args.out), "langs": info["langs"], "seed": info["seed"], "splits": splits})


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise UsageError(f"--objects needs a range such as 1-4; found `{text}`") from None


def _check(args: argparse.Namespace, console: Console) -> Outcome:
    from clip_edge.distill.data.check import check_dataset

    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit must be at least 1; found {args.limit}")
    if args.sheet is not None and not args.sheet.parent.is_dir():
        raise UsageError(f"no such folder: {args.sheet.parent}", hint="--sheet writes one file into an existing folder")
    columns = _columns(args.columns)
    report = check_dataset(args.data, limit=args.limit, columns=columns, console=console)
    _show(report, console)
    if args.sheet is not None:
        from clip_edge.distill.data.readers import open_dataset
        from clip_edge.distill.data.sheet import sheet_png

        split = next(split.split for split in report.splits if split.samples)
        write_file(args.sheet, sheet_png(open_dataset(args.data, split, columns=columns)))
        console.say(f"contact sheet: {args.sheet}")
    return Outcome(report.as_dict(), ExitCode.NO if report.problems else ExitCode.OK)


def _columns(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names):
        raise UsageError(f"--columns needs two names such as filepath,title; found `{text}`")
    return names[0], names[1]


def _show(report: CheckReport, console: Console) -> None:
    rows: list[tuple[Any, ...]] = []
    for split in report.splits:
        sizes = ", ".join(list(split.sizes_px)[:3]) + (", …" if len(split.sizes_px) > 3 else "")
        texts = [
            f"{lang or 'any language'}: {stats.captions} ({stats.distinct} distinct, "
            f"{stats.characters_mean:.0f} characters)"
            for lang, stats in split.captions.items()
        ]
        counted = (split.samples, split.decoded, split.readable, len(split.problems))
        rows.append((split.split, *counted, sizes, "\n".join(texts)))
    columns = ("split", ">samples", ">decoded", ">readable", ">problems", "sizes", "captions")
    console.table(columns, rows, title=report.name)
    if not report.problems:
        console.out("no problems found")
        return
    kinds = report.as_dict()["problems_by_kind"]
    found = "1 problem" if len(report.problems) == 1 else f"{len(report.problems)} problems"
    console.out(f"{found}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    for split_name, problem in report.problems[:PROBLEMS_SHOWN]:
        key = f" {problem.key}" if problem.key else ""
        console.out(f"  {split_name}: {problem.kind}:{key} in {problem.where}: {problem.reason}")
    if len(report.problems) > PROBLEMS_SHOWN:
        console.out(f"  … and {len(report.problems) - PROBLEMS_SHOWN} more; --json F lists all of them")
