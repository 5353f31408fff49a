"""The page about merged students, made of the results beside this file.

python -m clip_edge.benchmarks.sam_clip.page --out docs/benchmarks
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from clip_edge.benchmarks.training import spread
from clip_edge.files import read_json, write_file

HERE = Path(__file__).parent
KEEPS = 0.97  # of what each teacher reaches: the goal of the paper's recipe here
GAIN = 0.068  # mean IoU that the paper's student gains over the best before it, COCO-Stuff to VOC
Figure = Callable[[dict[str, Any]], float]
FIGURES: dict[str, Figure] = {
    "names, top-1": lambda run: run["top_1"]["value"],
    "search, R@1": lambda run: run["text_to_image"]["value"],
    "outlines by box, IoU": lambda run: run["prompted"]["box"]["iou"],
    "by point": lambda run: run["prompted"]["point"]["iou"],
    "found by name, mIoU: CLIP head": lambda run: run["clip_head"]["miou"],
    "both heads": lambda run: run["both_heads"]["miou"],
    "on objects alone: CLIP head": lambda run: run["clip_head"]["miou_on_objects"],
    "both heads ": lambda run: run["both_heads"]["miou_on_objects"],
}


def main() -> None:
    """Write sam-clip.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "merge.json")
    parser.add_argument("--out", type=Path, required=True, help="folder for the page")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_file(args.out / "sam-clip.md", page(read_json(args.results)).encode())


def page(results: dict[str, Any]) -> str:
    """The page as Markdown."""
    return (
        "\n\n".join([_introduction(results), _table(results), _goals(results), _sweep(results), _about(results)]) + "\n"
    )


def _introduction(results: dict[str, Any]) -> str:
    data = results["settings"]["data"]
    return f"""# One backbone for names and outlines

What a student of the recipe [`sam-clip`](../recipes/sam-clip.md) keeps of the two models that taught it, on the test
pictures of the built-in data ({data["emojis"] - data["unseen"]} names). Made by `benchmarks/sam_clip/page.py` from
`merge.json` beside it; `merge.py` makes that with nothing but command lines of clip-edge."""


def _table(results: dict[str, Any]) -> str:
    teachers = results["teachers"]
    merged = results["merged"]["10"]
    rows = {
        "CLIP teacher": teachers["clip-teacher"],
        "mask teacher": _without_names(teachers["sam-teacher"]),
        "merged": merged,
    }
    lines = [f"| | seeds | {' | '.join(FIGURES)} | image values | map |", "|" + "---|" * (len(FIGURES) + 4)]
    for name, runs in rows.items():
        if runs:
            cells = [_cell(runs, figure) for figure in FIGURES.values()]
            size = "×".join(map(str, runs[0]["map"]))
            lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {_image_values(runs[0]):,} | {size} |")
    two = sum(_image_values(teachers[name][0]) for name in teachers if teachers[name])
    return "\n".join(lines) + (
        f"\n\nTwo models need two passes of encoders and {two:,} values for pictures, the merged student one. Mean "
        "and standard deviation over seeds of the two stages of merging; the teachers are one run each."
    )


def _without_names(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A mask teacher's CLIP head was never trained: its figures by name are those of chance."""
    return [{key: value for key, value in run.items() if key not in ("clip_head", "both_heads")} for run in runs]


def _cell(runs: Sequence[dict[str, Any]], figure: Figure) -> str:
    values = _values(runs, figure)
    return spread(values) if values else ""


def _values(runs: Sequence[dict[str, Any]], figure: Figure) -> list[float]:
    found = []
    for run in runs:
        try:
            found.append(figure(run))
        except (KeyError, TypeError):  # this model has no such head
            continue
    return found


def _image_values(run: dict[str, Any]) -> int:
    return sum(count for part, count in run["parameters"].items() if part.startswith("image") or part == "masks")


def _goals(results: dict[str, Any]) -> str:
    merged = results["merged"]["10"]
    namer, outliner = (results["teachers"][name] for name in ("clip-teacher", "sam-teacher"))
    if not (merged and namer and outliner):
        return "## Goals\n\nNot measured yet."
    lines = ["## Goals", "", "| goal | found | |", "|---|---|---|"]
    for what, name, teacher in (
        ("the CLIP teacher's accuracy of names", "names, top-1", namer),
        ("the mask teacher's IoU by box", "outlines by box, IoU", outliner),
    ):
        whole = mean(_values(teacher, FIGURES[name]))
        share = mean(_values(merged, FIGURES[name])) / whole if whole else math.nan  # of a teacher that knows nothing
        lines.append(f"| {100 * KEEPS:.0f} % of {what} | {100 * share:.1f} % | {_verdict(share >= KEEPS)} |")
    for title, name in (
        ("", "found by name, mIoU: CLIP head"),
        (", on objects alone", "on objects alone: CLIP head"),
    ):
        gain = mean(_values(merged, FIGURES[name])) - mean(_values(namer, FIGURES[name]))
        goal = f"{100 * GAIN:.1f} points more mIoU than the CLIP teacher's own patches{title}, CLIP head"
        lines.append(f"| {goal} | {100 * gain:+.1f} points | {_verdict(gain >= GAIN)} |")
    return "\n".join(lines)


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _sweep(results: dict[str, Any]) -> str:
    first = {weight: runs[:1] for weight, runs in results["merged"].items() if runs}
    lines = [
        "## The weight of the outlines (the paper's λ)",
        "",
        f"| λ | {' | '.join(FIGURES)} |",
        "|" + "---|" * (len(FIGURES) + 1),
    ]
    for weight, runs in first.items():
        lines.append(f"| {weight} | {' | '.join(_cell(runs, figure) for figure in FIGURES.values())} |")
    return "\n".join(lines) + (
        "\n\nOne seed. The paper reports that 1 forgets outlines and 100 keeps names from being learnt; a weight "
        "without a row was not measured yet."
    )


def _about(results: dict[str, Any]) -> str:
    settings = results["settings"]
    data, probe, merge = settings["data"], settings["probe"], settings["merge"]
    return f"""## How

{data["images"]:,} training pictures of {data["objects"]} emoji. Names and search are measured on the whole test split
({data["eval-images"]} pictures), maps and outlines on {settings["masked_pictures"]} of them; mIoU lets words of the
background compete, `on objects alone` does not ([evaluation](../evaluate.md)). A box that is filled has 57.5 % IoU with
its object (97 objects of that split): the mask teacher, too, is a beginner. Stage 1: {probe["steps"]} steps of
{probe["batch_size"]} pictures; stage 2: {merge["steps"]} steps of {merge["batch_size"]} pictures to name and
{merge["masks_batch_size"]} scenes with {merge["prompts.count"]} prompts each. That is
{int(merge["steps"]) * int(merge["batch_size"]) / data["images"]:.1f} passes over the pictures; the paper's stages are
20 and 16 passes over 41 million. The distance to the CLIP teacher was still falling at the last step, so what is missed
here says little about the recipe with more training. All settings stand in `merge.json`.

Not measured: the pipeline of mask teacher and CLIP on crops, averages of weights, stage 3, and the time that one pass
takes against two."""


if __name__ == "__main__":
    main()
