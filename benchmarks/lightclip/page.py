"""The page about the recipe `lightclip`, made of the results beside this file.

python -m clip_edge.benchmarks.lightclip.page --out docs/benchmarks
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_edge.benchmarks.lightclip.ladder import DEPTHS, KNOWLEDGE
from clip_edge.benchmarks.reinforced.ladder import KNOWLEDGE as CONTENTS
from clip_edge.benchmarks.steptime import cost_table
from clip_edge.benchmarks.training import SPLITS, spread
from clip_edge.files import read_json, write_file

HERE = Path(__file__).parent
FIGURES = {"text_to_image": "text to image R@1", "image_to_text": "image to text R@1", "top_1": "zero-shot top-1"}


def main() -> None:
    """Write lightclip.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "ladder.json")
    parser.add_argument("--cost", type=Path, default=HERE / "cost.json")
    parser.add_argument("--out", type=Path, required=True, help="folder for the page")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    cost = read_json(args.cost) if args.cost.is_file() else None
    write_file(args.out / "lightclip.md", page(read_json(args.results), cost).encode())


def page(results: dict[str, Any], cost: dict[str, Any] | None) -> str:
    """The page as Markdown; without `cost` nothing is said about time and memory."""
    parts = [_introduction(results), _ladder(results["rungs"]), _depths(results["rungs"])]
    if cost is not None:
        parts.append(f"## What each term costs\n\n{cost_table(cost['ways'], cost['student'], cost['training'])}")
    return "\n\n".join([*parts, _about(results)]) + "\n"


def _introduction(results: dict[str, Any]) -> str:
    training = results["training"]
    seen = int(training["steps"]) * int(training["batch_size"])
    return f"""# What each term of `lightclip` gains

The same student ({results["student"]["summary"]}), the same {seen:,} pictures in the same order, and one more term on
every rung, on the built-in pictures. Made by `benchmarks/lightclip/page.py` from `ladder.json` beside it, where every
figure of every run stands; `ladder.py` makes them, with nothing but command lines of clip-edge."""


def _ladder(rungs: Sequence[dict[str, Any]]) -> str:
    columns = [f"{title}, {split}" for split in SPLITS for title in FIGURES.values()]
    rows = [f"| | seeds | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    for rung in rungs:
        runs = _at(rung, DEPTHS[0])
        if runs:
            cells = [_figure(runs, split, key) for split in SPLITS for key in FIGURES]
            rows.append(f"| {rung['title']} | {len(runs)} | {' | '.join(cells)} |")
    note = """Mean ± standard deviation over the seeds. `unseen` shows emoji that no training picture shows. The last
rung also has a second caption for each picture, a synthetic one, as stored knowledge always does."""
    return "\n".join([*rows, "", note])


def _depths(rungs: Sequence[dict[str, Any]]) -> str:
    """Depth of the text tower with and without hidden words."""
    without, with_words = (next(rung for rung in rungs if rung["name"] == name) for name in ("tokens", "words"))
    rows = ["| text layers | without hidden words | with hidden words |", "|---|---|---|"]
    for depth in sorted(DEPTHS):
        several = [_at(rung, depth) for rung in (without, with_words)]
        if all(several):
            cells = [f"{_figure(runs, 'test', 'text_to_image')} ({len(runs)})" for runs in several]
            rows.append(f"| {depth} | {' | '.join(cells)} |")
    text = """## Deeper text towers

The paper's motive for hidden words is that accuracy stops growing with the depth of the text tower. Text to image R@1
on test (number of seeds), with softened labels and token alignment, without and with hidden words:"""
    return "\n".join([text, "", *rows])


def _at(rung: dict[str, Any], depth: int) -> list[dict[str, Any]]:
    return [run for run in rung["runs"] if run["depth"] == depth]


def _figure(runs: Sequence[dict[str, Any]], split: str, key: str) -> str:
    return spread([run["final"][split][key]["value"] for run in runs])


def _about(results: dict[str, Any]) -> str:
    data = " ".join(f"--{name} {value}" for name, value in results["data"].items())
    training = ", ".join(f"{name} = {value}" for name, value in results["training"].items())
    taught = results["teacher"]["text_to_image"]["recall_at_1"]["value"]
    here, knowledge = results["environment"], " ".join(CONTENTS[KNOWLEDGE].words)
    return f"""## Settings

* data: `data emoji {data}`
* training: {training}, and the defaults of the recipe; the picture comes into the middle and the last text layer
* teacher of the last rung: a frozen EfficientNet-Lite0, text to image R@1 on test {100 * taught:.1f} %, stored with
  `reinforce {knowledge} --captions 2`
* machine: {here["cpu"]}, {here["usable_cores"]} cores"""


if __name__ == "__main__":
    main()
