"""`clip-edge eval`: zero-shot classification, retrieval and segmentation, in one or more languages."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_edge.cli import Outcome
from clip_edge.console import Console
from clip_edge.errors import UsageError

if TYPE_CHECKING:
    from clip_edge.distill.data.samples import DataSet
    from clip_edge.distill.evaluate import Measurable

TASKS = ("retrieve", "classify", "segment")
WORST_SHOWN = 5  # classes named under the table; the others are in the JSON


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a student folder or run, a bundle, open_clip:NAME:TAG, or hf:FOLDER"
    )
    parser.add_argument("--data", type=Path, help="data set: shards, CSV or TSV file, class folders")
    parser.add_argument("--suite", type=Path, metavar="F.toml", help="several data sets, each with its metric, instead")
    parser.add_argument("--precision", metavar="P", help="of a bundle's graphs (default: the first in the bundle)")
    parser.add_argument("--task", choices=TASKS, default="retrieve", help="what to measure (default: %(default)s)")
    parser.add_argument("--split", help="part of the data set (default: test, or the only one there is)")
    parser.add_argument(
        "--lang", default="", help="languages, as in en,zh (default: all that the data has; en for segment)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="at most N pictures, spread evenly over the split")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="pictures at once (default: %(default)s)")
    parser.add_argument(
        "--template",
        action="append",
        default=[],
        metavar="T",
        help="sentence with {} for the class name, instead of the language's own; may be repeated",
    )


def run(args: argparse.Namespace, console: Console) -> Outcome:
    _at_least_one("--limit", args.limit)
    _at_least_one("--batch", args.batch)

    from clip_edge.distill.data.readers import data_splits, open_dataset
    from clip_edge.distill.data.samples import warn_of_problems
    from clip_edge.distill.templates import check_template

    for template in args.template:
        check_template(template)
    if (args.data is None) == (args.suite is None):
        raise UsageError("expected either --data or --suite", hint="--data DATA, or --suite F.toml for several")
    langs = [lang.strip() for lang in args.lang.split(",") if lang.strip()]
    if args.suite is not None:
        return _run_suite(args, langs, console)
    splits = data_splits(args.data)
    dataset = open_dataset(args.data, args.split or (splits[0] if len(splits) == 1 else "test"))
    warn_of_problems(dataset, console)
    langs = [lang.strip() for lang in args.lang.split(",") if lang.strip()]
    measured = _segment if args.task == "segment" else _recognise
    result = measured(args, dataset, langs, console)
    return Outcome({"model": args.model, "precision": args.precision, **result})


def _recognise(args: argparse.Namespace, dataset: DataSet, langs: Sequence[str], console: Console) -> dict[str, Any]:
    from clip_edge.distill.evaluate import evaluate

    result = evaluate(
        _model(args),
        dataset,
        task=args.task,
        langs=langs,
        limit=args.limit,
        batch_size=args.batch,
        templates=args.template,
        console=console,
    )
    _show(result, console)
    return result


def _segment(args: argparse.Namespace, dataset: DataSet, langs: Sequence[str], console: Console) -> dict[str, Any]:
    from clip_edge.distill.segmentation import segmentation

    if len(langs) > 1:
        raise UsageError(f"--task segment takes one language; found {','.join(langs)}")
    result = segmentation(
        _model(args),
        dataset,
        lang=langs[0] if langs else "en",
        limit=args.limit,
        batch_size=args.batch,
        templates=args.template,
        console=console,
    )
    _show_segmentation(result, console)
    return result


def _run_suite(args: argparse.Namespace, langs: Sequence[str], console: Console) -> Outcome:
    from clip_edge.distill.suite import measure

    if args.split is not None or args.task != TASKS[0]:
        raise UsageError("--split and --task do not go with --suite", hint="its file says `split` and `metric`")
    result = measure(
        _model(args),
        args.suite,
        langs=langs,
        limit=args.limit,
        batch_size=args.batch,
        templates=args.template,
        console=console,
    )
    _show_suite(result, str(args.suite), console)
    return Outcome({"model": args.model, "precision": args.precision, "suite": str(args.suite), **result})


def _show_suite(result: Mapping[str, Any], title: str, console: Console) -> None:
    spoken = list(dict.fromkeys(lang for row in result["data"] for lang in row["languages"]))
    rows: list[Sequence[object]] = []
    for row in result["data"]:
        shares = [row["languages"].get(lang) for lang in spoken]
        cells = ["" if share is None else _percent(share) for share in shares]
        rows.append((row["name"], row["metric"], row["images"], *cells, _percent(row["mean"])))
    means = [result["languages"].get(lang) for lang in spoken]
    cells = ["" if share is None else _percent(share) for share in means]
    rows.append(("mean", "", "", *cells, _percent(result["mean"])))
    console.table(
        ("data", "metric", ">pictures", *(f">{lang}" for lang in spoken), ">mean"), rows, title=f"suite {title}"
    )
    skipped = sum(len(row["skipped"]) for row in result["data"])
    if skipped:
        console.out(f"{skipped} pictures could not be read; --json names them")


def _model(args: argparse.Namespace) -> Measurable:
    from clip_edge.export.bundled import is_bundle, load_bundled

    if is_bundle(args.model):
        return load_bundled(Path(args.model), precision=args.precision, segment=args.task == "segment")
    if args.precision is not None:
        raise UsageError("--precision is for bundles", hint="export the model first, then evaluate the bundle")
    from clip_edge.distill.evaluate import load_model

    return load_model(args.model)


def _at_least_one(option: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UsageError(f"{option} must be at least 1; found {value}")


def _show(result: Mapping[str, Any], console: Console) -> None:
    languages: Mapping[str, Mapping[str, Any]] = result["languages"]
    title = f"{result['data']}, split {result['split']}, {result['images']} pictures"
    if result["task"] == "retrieve":
        _show_retrieval(title, languages, result["mean"], console)
    else:
        _show_classification(title, languages, result["mean"], console)
    if result["skipped"]:
        console.out(f"{len(result['skipped'])} pictures could not be read; --json names them")


def _show_retrieval(
    title: str, languages: Mapping[str, Mapping[str, Any]], mean: Mapping[str, Any], console: Console
) -> None:
    recalls = ("recall_at_1", "recall_at_5", "recall_at_10")
    rows: list[Sequence[object]] = []
    for direction in ("text_to_image", "image_to_text"):
        label = direction.replace("_", " ")
        for lang, figures in languages.items():
            figure = figures[direction]
            shares = [_percent(figure[name]) for name in recalls]
            rows.append((label, lang, figure["queries"], figure["candidates"], *shares, f"{figure['median_rank']:g}"))
        if len(languages) > 1:
            rows.append((label, "mean", "", "", *(_percent(mean[direction][name]) for name in recalls), ""))
    columns = ("search", "language", ">queries", ">candidates", ">R@1", ">R@5", ">R@10", ">median rank")
    console.table(columns, rows, title=title)


def _show_classification(
    title: str, languages: Mapping[str, Mapping[str, Any]], mean: Mapping[str, Any], console: Console
) -> None:
    rows: list[Sequence[object]] = [
        (
            lang,
            figures["images"],
            figures["classes"],
            _percent(figures["top_1"]),
            _percent(figures["top_5"]),
            _percent(figures["mean_per_class"]),
        )
        for lang, figures in languages.items()
    ]
    if len(languages) > 1:
        rows.append(("mean", "", "", *(_percent(mean[name]) for name in ("top_1", "top_5", "mean_per_class"))))
    console.table(("language", ">pictures", ">classes", ">top-1", ">top-5", ">mean per class"), rows, title=title)
    for lang, figures in languages.items():
        worst = sorted(figures["per_class"], key=lambda row: row["value"])[:WORST_SHOWN]
        names = ", ".join(f"{row['name']} {row['value']:.0%} of {row['images']}" for row in worst)
        console.out(f"weakest classes, {lang}: {names}")


def _show_segmentation(result: Mapping[str, Any], console: Console) -> None:
    title = f"{result['data']}, split {result['split']}, {result['images']} pictures, {result['classes']} names"
    rows: list[Sequence[object]] = []
    for way in ("clip_head", "both_heads"):
        figures = result[way]
        if figures is not None:
            name = way.replace("_", " ").replace("clip", "CLIP")
            shares = [figures[key] for key in ("miou", "background_iou", "miou_on_objects")]
            rows.append((f"by name, {name}", *("" if share is None else f"{100 * share:.1f} %" for share in shares)))
    console.table(("found", ">mean IoU", ">background", ">on objects alone"), rows, title=title)
    if result["prompted"] is not None:
        asked = [(kind, f"{100 * result['prompted'][kind]['iou']:.1f} %") for kind in ("box", "point")]
        console.table(("asked for by", ">mean IoU"), asked, title=f"{result['prompted']['objects']} objects")
    if result["skipped"]:
        console.out(f"{len(result['skipped'])} pictures could not be used; --json names them")


def _percent(share: Mapping[str, float]) -> str:
    """`63.4 % (61.0-65.7)`: a share and its 95 % interval, where it has one."""
    value = f"{100 * share['value']:.1f} %"
    return value if "low" not in share else f"{value} ({100 * share['low']:.1f}-{100 * share['high']:.1f})"
