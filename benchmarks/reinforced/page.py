"""The page about reinforced training, made of the results beside this file.

python -m clip_edge.benchmarks.reinforced.page --out docs/benchmarks
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from clip_edge.benchmarks.plots import Line, line_chart
from clip_edge.benchmarks.reinforced.ladder import RUNGS
from clip_edge.benchmarks.steptime import cost_table
from clip_edge.benchmarks.training import spread
from clip_edge.files import read_json, write_file

HERE = Path(__file__).parent
TEST_RECALL = "test/text_to_image/recall_at_1"
EXTRA = "augmented-int8"  # not a rung of the ladder: the rung `augmented` with other rows
STYLE = """<style>
svg { font: 12px system-ui, sans-serif; background: #fff; }
.grid { stroke: #e5e2da; } .tick { fill: #646a73; } .line { fill: none; stroke-width: 2; }
.c0 { stroke: #8a8f98; } .c1 { stroke: #d9822b; } .c2 { stroke: #3f6fb5; } .c3 { stroke: #0b6e5f; }
.c4 { stroke: #a2497f; }
circle { stroke: none; } circle.c0 { fill: #8a8f98; } circle.c1 { fill: #d9822b; } circle.c2 { fill: #3f6fb5; }
circle.c3 { fill: #0b6e5f; } circle.c4 { fill: #a2497f; }
</style>"""
COLOURS = ("grey", "orange", "blue", "green", "violet")


def main() -> None:
    """Write reinforced.md and its plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "ladder.json")
    parser.add_argument("--cost", type=Path, default=HERE / "cost.json")
    parser.add_argument("--out", type=Path, required=True, help="folder for the page")
    args = parser.parse_args()
    results = read_json(args.results)
    args.out.mkdir(parents=True, exist_ok=True)
    write_file(args.out / "reinforced.svg", _plot(results).encode())
    cost = read_json(args.cost) if args.cost.is_file() else None
    write_file(args.out / "reinforced.md", page(results, cost).encode())


def page(results: dict[str, Any], cost: dict[str, Any] | None) -> str:
    """The page as Markdown; without `cost` nothing is said about time."""
    rungs = {rung["name"]: rung for rung in results["rungs"]}
    ladder = [rung for rung in results["rungs"] if rung["name"] != EXTRA and rung["runs"]]
    parts = [_introduction(results), _table(ladder), _efficiency(ladder, results)]
    if rungs[EXTRA]["runs"] and rungs["augmented"]["runs"]:
        parts.append(_rows(rungs["augmented"], rungs[EXTRA], results))
    if cost is not None:
        parts.append(_cost(cost))
    return "\n\n".join([*parts, _about(results)]) + "\n"


def _introduction(results: dict[str, Any]) -> str:
    training, student = results["training"], results["student"]
    seen = int(training["steps"]) * int(training["batch_size"])
    return f"""# What reinforced training gains

The same student ({student["summary"]}), the same {seen:,} pictures in the same order, and one more ingredient on every
rung: the ladder of the ablations in the MobileCLIP paper, on the built-in pictures. Made by
`benchmarks/reinforced/page.py` from `ladder.json` beside it, where every figure of every run stands; `ladder.py` makes
them, with nothing but command lines of clip-edge."""


def _table(ladder: Sequence[dict[str, Any]]) -> str:
    rows = [
        "| | seeds | text to image R@1, test | image to text R@1, test | text to image R@1, unseen emoji | s a run |",
        "|---|---|---|---|---|---|",
    ]
    for rung in ladder:
        runs = rung["runs"]
        cells = [
            spread([run["final"][split][way]["value"] for run in runs])
            for split, way in (("test", "text_to_image"), ("test", "image_to_text"), ("unseen", "text_to_image"))
        ]
        seconds = mean(run["elapsed_s"] for run in runs)
        rows.append(f"| {rung['title']} | {len(runs)} | {' | '.join(cells)} | {seconds:.0f} |")
    colours = ", ".join(f"{rung['title']} {colour}" for rung, colour in zip(ladder, COLOURS, strict=False))
    note = "Mean ± standard deviation over the seeds. Times are of a busy machine and compare nothing."
    return "\n".join([*rows, "", note, "", f"![R@1 on test over pictures seen](reinforced.svg)\n\n{colours}."])


def _efficiency(ladder: Sequence[dict[str, Any]], results: dict[str, Any]) -> str:
    """How soon each rung is where plain CLIP ends."""
    batch = int(results["training"]["batch_size"])
    curves = {rung["name"]: curve(rung) for rung in ladder}
    if "plain" not in curves:
        return ""
    last_step, goal = curves["plain"][-1]
    rows = ["| | pictures until plain CLIP's final R@1 | times fewer |", "|---|---|---|"]
    for rung in ladder[1:]:
        step = reached(curves[rung["name"]], goal)
        found = "never" if step is None else f"{step * batch:,.0f}"
        rows.append(f"| {rung['title']} | {found} | {'–' if step is None else f'{last_step / step:.1f}'} |")
    text = f"""## Pictures needed

Plain CLIP ends at {100 * goal:.1f} % (text to image R@1 on test, mean of the seeds) after {last_step * batch:,.0f}
pictures. The others are there after"""
    note = "Between two evaluations the curve is taken as straight. The goal was ten times fewer."
    return "\n".join([text, "", *rows, "", note])


def curve(rung: dict[str, Any]) -> list[tuple[float, float]]:
    """(step, mean over the seeds of R@1 on test) at every evaluation."""
    runs = [{row["step"]: row[TEST_RECALL] for row in run["log"] if TEST_RECALL in row} for run in rung["runs"]]
    return [(step, mean(run[step] for run in runs)) for step in sorted(set.intersection(*map(set, runs)))]


def reached(points: Sequence[tuple[float, float]], goal: float) -> float | None:
    """The step at which the curve, which begins at (0, 0), first meets `goal`; None: never."""
    before = (0.0, 0.0)
    for step, value in points:
        if value >= goal:
            return before[0] + (step - before[0]) * (goal - before[1]) / (value - before[1])
        before = (step, value)
    return None


def _rows(full: dict[str, Any], small: dict[str, Any], results: dict[str, Any]) -> str:
    """What int8 rows change, seed by seed, where both were trained."""
    sizes = {name: results["knowledge"][name]["bytes_per_sample"] for name in ("augmented", EXTRA)}
    pairs = [(one, two) for one in full["runs"] for two in small["runs"] if one["seed"] == two["seed"]]
    losses = [
        abs(a[key] - b[key]) / a[key]
        for one, two in pairs
        for a, b in zip(one["log"], two["log"], strict=True)
        for key in ("true/kl", "synthetic/kl")
    ]
    recalls = [
        [run["final"]["test"]["text_to_image"]["value"] for run in several] for several in zip(*pairs, strict=True)
    ]
    full_bytes, small_bytes = sizes["augmented"], sizes[EXTRA]
    elsewhere = [one["seed"] for one, two in pairs if one["cpu"] != two["cpu"]]
    note = (
        f"\n\nThe two runs of seed {', '.join(map(str, elsewhere))} come from different processors."
        if elsewhere
        else ""
    )
    return f"""## Rows in int8

{small_bytes:,.0f} bytes a picture instead of {full_bytes:,.0f} with bf16 ({small_bytes / full_bytes:.0%}).
With the same seeds the distillation loss differs by {100 * mean(losses):.2f} % on average over all logged steps and by
{100 * max(losses):.2f} % at most. Text to image R@1 on test is {spread(recalls[1])}; with bf16 it is
{spread(recalls[0])}.{note}{_repeated(results)}"""


def _repeated(results: dict[str, Any]) -> str:
    """How far a run is from the same one on another processor: what differences of single runs mean."""
    first = {(rung["name"], run["seed"]): run for rung in results["rungs"] for run in rung["runs"]}
    parts = []
    for run in results.get("repeated", ()):
        one, two = (
            100 * found["final"]["test"]["text_to_image"]["value"] for found in (first[run["rung"], run["seed"]], run)
        )
        parts.append(f"{RUNGS[run['rung']].title}, seed {run['seed']}: {one:.1f} % and {two:.1f} %")
    return f" The same run on another processor: {'; '.join(parts)}." if parts else ""


def _cost(cost: dict[str, Any]) -> str:
    """Time of a step, bytes a picture, and how fast they are read."""
    tables = [cost_table(ways, student, cost["training"]) for student, ways in cost["students"].items()]
    rows = [
        "| stored | augmentations | captions | dimensions | bytes a picture | DataCompDR's layout | ratio "
        "| samples/s, one core | with pictures |",
        f"|{'---|' * 9}",
    ]
    for name, one in cost["knowledge"].items():
        dims = " + ".join(map(str, one["dimensions"]))
        theirs = cost["knowledge"]["augmented" if name == EXTRA else name]["datacompdr_bytes"]  # of unrounded vectors
        sizes = f"{one['bytes']:,.0f} | {theirs:,.0f} | {one['bytes'] / theirs:.0%}"
        rates = f"{one['without_picture_per_s']:,.0f} | {one['with_picture_per_s']:,.0f}"
        what = f"{one['augmentations']} | {one['captions']:.1f} | {dims}"
        rows.append(f"| {name}, {one['dtype']} | {what} | {sizes} | {rates} |")
    steps = """## Time of a step

Short runs that took turns. The goal was 1.05 times plain CLIP. Both captions are two passes of the text tower, where
plain CLIP has one; augmented pictures cost their augmentation with any recipe."""
    stored = """## What is stored

DataCompDR's layout (bf16, gzipped, with its two JSON files) of the same embeddings, augmentations and captions, without
the padding of a tar file. The goal was half of it with `int8`. With pictures: decoded, and augmented to 64 pixels."""
    return "\n\n".join([steps, *tables, stored, "\n".join(rows)])


def _about(results: dict[str, Any]) -> str:
    teachers = ", ".join(
        f"{name} {100 * found['text_to_image']['recall_at_1']['value']:.1f} %"
        for name, found in results["teachers"].items()
    )
    data = " ".join(f"--{name} {value}" for name, value in results["data"].items())
    training = ", ".join(f"{name} = {value}" for name, value in results["training"].items())
    here = results["environment"]
    runs = [*(run for rung in results["rungs"] for run in rung["runs"]), *results.get("repeated", ())]
    others = sorted({run["cpu"] for run in runs} - {here["cpu"]})
    also = f"; some runs: {', '.join(others)}" if others else ""
    return f"""## Settings

* data: `data emoji {data}`
* teachers, text to image R@1 on test: {teachers}. The first is EfficientNet-Lite0, the second EfficientNet-Lite2 with
  another tokenizer, text tower and dimension; both trunks come from ImageNet and stay frozen
* training: {training}
* machine: {here["cpu"]}, {here["usable_cores"]} cores{also}"""


def _plot(results: dict[str, Any]) -> str:
    batch = int(results["training"]["batch_size"])
    ladder = [rung for rung in results["rungs"] if rung["name"] != EXTRA and rung["runs"]]
    lines = [Line(rung["title"], tuple((step * batch, value) for step, value in curve(rung))) for rung in ladder]
    drawn = line_chart(lines, x_name="pictures seen", percent=False)
    return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{STYLE}", 1)


if __name__ == "__main__":
    main()
