"""The pages about the recipe `dc-clip`, made of the results beside this file: one for each set of languages.

python -m clip_edge.benchmarks.dc_clip.page --out docs/benchmarks
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from clip_edge.benchmarks.dc_clip.ladder import ALIGNING, LANGS, STEPS
from clip_edge.benchmarks.training import SPLITS, spread
from clip_edge.files import read_json, write_file

HERE = Path(__file__).parent
FIGURES = {"text_to_image": "text to image R@1", "image_to_text": "image to text R@1", "top_1": "zero-shot top-1"}
GOAL_KEPT, GOAL_SMALLER = 0.95, 5.0


def main() -> None:
    """Write dc-clip.md for the languages that `ladder.py` takes by itself, dc-clip-ar-ja-….md for others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, nargs="+", default=sorted(HERE.glob("ladder*.json")))
    parser.add_argument("--out", type=Path, required=True, help="folder for the page")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for path in args.results:
        results = read_json(path)
        name = "-".join(["dc-clip", *(results["langs"] if tuple(results["langs"]) != LANGS else ())])
        write_file(args.out / f"{name}.md", page(results, path.name).encode())


def page(results: dict[str, Any], source: str) -> str:
    """The page as Markdown; `source` is the file of the results."""
    arms = [arm for arm in results["arms"] if arm["shown"] and arm["runs"]]
    parts = [_introduction(results, arms, source)]
    for split in SPLITS:
        parts.append(f"## Split `{split}`")
        parts += [_table(results, arms, split, figure) for figure in FIGURES]
    return "\n\n".join([*parts, _goal(results, arms), _about(results)]) + "\n"


def _introduction(results: dict[str, Any], arms: Sequence[dict[str, Any]], source: str) -> str:
    seen = STEPS * int(results["training"]["batch_size"])
    seeds = ", ".join(f"{arm['title']} {len(arm['runs'])}" for arm in arms)
    return f"""# What the two stages of `dc-clip` gain in several languages

The same student ({results["student"]["summary"]}) on {seen:,} pictures, both stages together where there are two
({ALIGNING / STEPS:.0%} of them in stage 2), in the languages {", ".join(results["langs"])}, on the built-in pictures.
Made by `benchmarks/dc_clip/page.py` from `{source}` beside it, where every figure of every run stands; `ladder.py`
makes them, with nothing but command lines of clip-edge. Mean ± standard deviation over the seeds; seeds: {seeds}."""


def _table(results: dict[str, Any], arms: Sequence[dict[str, Any]], split: str, figure: str) -> str:
    langs = results["langs"]
    rows = [f"| {FIGURES[figure]} | {' | '.join(langs)} | mean |", f"|---|{'---|' * (len(langs) + 1)}"]
    for title, runs in [("teacher", [results["teacher"]]), *((arm["title"], arm["runs"]) for arm in arms)]:
        values = {lang: [_value(run, split, lang, figure) for run in runs] for lang in langs}
        means = [mean(several) for several in zip(*values.values(), strict=True)]
        rows.append(f"| {title} | {' | '.join(spread(several) for several in [*values.values(), means])} |")
    return "\n".join(rows)


def _value(run: dict[str, Any], split: str, lang: str, figure: str) -> float:
    return float(run["final"][split][lang][figure]["value"])


def _goal(results: dict[str, Any], arms: Sequence[dict[str, Any]]) -> str:
    """What each arm keeps of its teacher on `test`, and the goals, met or missed."""
    teacher, langs = results["teacher"], results["langs"]
    columns = [f"{FIGURES[figure]}, {lang}" for figure in FIGURES for lang in langs]
    rows = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for arm in arms:
        shares = [kept(teacher, arm["runs"], lang, figure) for figure in FIGURES for lang in langs]
        rows.append(f"| {arm['title']} | {' | '.join(f'{100 * share:.0f} %' for share in shares)} |")
    smaller = teacher["parameters"] / arms[0]["runs"][0]["parameters"]
    lines = [
        f"* {GOAL_SMALLER:.0f} times fewer parameters: {teacher['parameters']:,} / {arms[0]['runs'][0]['parameters']:,}"
        f" = {smaller:.1f}, {_met(smaller >= GOAL_SMALLER)}"
    ]
    runs = {arm["name"]: arm["runs"] for arm in arms}
    least = {
        arm["title"]: min(kept(teacher, arm["runs"], lang, figure) for lang in langs for figure in FIGURES)
        for arm in arms
    }
    best = max(least, key=lambda title: least[title])
    for title in dict.fromkeys([*(arm["title"] for arm in arms if arm["name"] == "both"), best]):
        lines.append(
            f"* {title}: at least {GOAL_KEPT:.0%} of the teacher's figures in every language: "
            f"at least {least[title]:.0%}, {_met(least[title] >= GOAL_KEPT)}"
        )
    if {"both", "direct"} <= set(runs):
        pairs = [
            [kept(teacher, runs[name], lang, figure) for name in ("both", "direct")]
            for lang in langs
            for figure in FIGURES
        ]
        better = sum(both > direct for both, direct in pairs)
        lines.append(
            f"* both stages beat training on pairs alone in every language: in {better} of {len(pairs)} figures, "
            f"{_met(better == len(pairs))}"
        )
    return "\n".join(["## What is kept of the teacher, on `test`", "", *rows, "", "Goals:", "", *lines])


def kept(teacher: dict[str, Any], runs: Sequence[dict[str, Any]], lang: str, figure: str) -> float:
    """The mean of the runs on `test`, as a part of the teacher's figure."""
    return mean(_value(run, "test", lang, figure) for run in runs) / _value(teacher, "test", lang, figure)


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def _about(results: dict[str, Any]) -> str:
    here = results["environment"]
    tables = {"data": results["data"], "teaching": results["teaching"], "training": results["training"]}
    lines = [
        f"* {name}: " + ", ".join(f"{key} = {value}" for key, value in table.items()) for name, table in tables.items()
    ]
    own = "; ".join(
        f"{arm['title']}: {arm['recipe']}, {arm['steps']} steps, "
        + ", ".join(f"{key} = {value}" for key, value in arm["settings"])
        for arm in results["arms"]
    )
    teacher = f"* teacher: {results['teacher']['summary']}, {results['teacher']['parameters']:,} parameters"
    machine = f"* machine: {here['cpu']}, {here['usable_cores']} cores"
    return "\n".join(["## Settings", "", *lines, teacher, f"* {own}", machine])


if __name__ == "__main__":
    main()
