"""The page about merged students, made of the results beside this file.

python -m clip_edge.benchmarks.sam_clip.page --out docs/benchmarks
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from clip_edge.benchmarks.sam_clip.merge import LONGER
from clip_edge.benchmarks.training import spread
from clip_edge.files import read_json, write_file

HERE = Path(__file__).parent
KEEPS = 0.97  # of what each teacher reaches: the goal of the paper's recipe here
FASTER = 0.6  # of the time of two encoders
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
    scenes = args.results.with_name("scenes.png")
    if scenes.is_file():
        write_file(args.out / "sam-clip.png", scenes.read_bytes())


def page(results: dict[str, Any]) -> str:
    """The page as Markdown."""
    parts = [_introduction(results), _table(results), _goals(results), _scenes(results), _time(results)]
    return "\n\n".join(part for part in [*parts, _sweep(results), _about(results)] if part) + "\n"


def _introduction(results: dict[str, Any]) -> str:
    data = results["settings"]["data"]
    return f"""# One backbone for names and outlines

What a student of the recipe [`sam-clip`](../recipes/sam-clip.md) keeps of the two models that taught it, on the test
pictures of the built-in data ({data["emojis"] - data["unseen"]} names). Made by `benchmarks/sam_clip/page.py` from
`merge.json` beside it; `merge.py` makes that with nothing but command lines of clip-edge."""


def _table(results: dict[str, Any]) -> str:
    teachers, averaged = results["teachers"], results["averaged"]
    crops = results["pipeline"]["crops"] if "pipeline" in results else math.nan
    namer, outliner = teachers["clip-teacher"], _without_names(teachers["sam-teacher"])
    rows = {
        "CLIP teacher": (namer, "1"),
        "mask teacher": (outliner, "1"),
        "pipeline of both: outlines, then names of crops": (_piped(results, namer, outliner), f"{2 + crops:.0f}"),
        "mean of their weights, two heads each": (_both(averaged["averaged-names"], averaged["averaged-masks"]), "1"),
        "merged": (results["merged"]["10"], "1"),
        f"merged, {LONGER} times as long in stage 2": (results["longer"], "1"),
    }
    lines = [
        f"| | seeds | passes of encoders | {' | '.join(FIGURES)} | image values | map |",
        "|" + "---|" * (len(FIGURES) + 5),
    ]
    for name, (runs, passes) in rows.items():
        if runs:
            cells = [_cell(runs, figure) for figure in FIGURES.values()]
            size = "×".join(map(str, runs[0]["map"]))
            lines.append(
                f"| {name} | {len(runs)} | {passes} | {' | '.join(cells)} | {_image_values(runs[0]):,} | {size} |"
            )
    return "\n".join(lines) + (
        "\n\nMean and standard deviation over seeds of the two stages of merging; teachers, and what is made of them, "
        "are one run each. The mean of weights has one backbone, and the projection of the one and the heads of the "
        "other teacher. The pipeline asks the mask teacher on a grid of points for all outlines, and names the square "
        "around each by the CLIP teacher."
    )


def _piped(
    results: dict[str, Any], namer: Sequence[dict[str, Any]], outliner: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The figures of the pipeline: names and outlines are the teachers' own, with both of their encoders."""
    if not ("pipeline" in results and namer and outliner):
        return []
    found = _both(namer, outliner)[0] | {"clip_head": None, "both_heads": results["pipeline"]}
    return [found | {"parameters": _renamed(namer[0]) | outliner[0]["parameters"]}]


def _both(namer: Sequence[dict[str, Any]], outliner: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What names as the one and outlines as the other."""
    return [named | {"prompted": outlined["prompted"]} for named, outlined in zip(namer, outliner, strict=False)]


def _renamed(run: dict[str, Any]) -> dict[str, int]:
    return {f"{part} of the namer": count for part, count in run["parameters"].items()}


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
    students = {"merged": merged, f"{LONGER} times as long": results["longer"]}
    known = {title: runs for title, runs in students.items() if runs}
    lines = ["## Goals", "", f"| goal | {' | '.join(known)} |", "|" + "---|" * (len(known) + 1)]
    for what, name, teacher in (
        ("the CLIP teacher's accuracy of names", "names, top-1", namer),
        ("the CLIP teacher's R@1", "search, R@1", namer),
        ("the mask teacher's IoU by box", "outlines by box, IoU", outliner),
    ):
        whole = mean(_values(teacher, FIGURES[name])) or math.nan  # of a teacher that knows nothing
        shares = [mean(_values(runs, FIGURES[name])) / whole for runs in known.values()]
        cells = [f"{100 * share:.1f} %, {_verdict(share >= KEEPS)}" for share in shares]
        lines.append(f"| {100 * KEEPS:.0f} % of {what} | {' | '.join(cells)} |")
    for title, name in (
        ("", "found by name, mIoU: CLIP head"),
        (", on objects alone", "on objects alone: CLIP head"),
    ):
        before = mean(_values(namer, FIGURES[name]))
        gains = [mean(_values(runs, FIGURES[name])) - before for runs in known.values()]
        cells = [f"{100 * gain:+.1f} points, {_verdict(gain >= GAIN)}" for gain in gains]
        goal = f"{100 * GAIN:.1f} points more mIoU than the CLIP teacher's own patches{title}, CLIP head"
        lines.append(f"| {goal} | {' | '.join(cells)} |")
    if "latency" in results:
        share = _share(results)
        goal = f"less than {100 * FASTER:.0f} % of the time of two encoders"
        lines.append(f"| {goal} | {' | '.join([f'{100 * share:.0f} %, {_verdict(share < FASTER)}'] * len(known))} |")
    return "\n".join(lines)


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _share(results: dict[str, Any]) -> float:
    """The time of the merged student, as a part of that of two encoders that give less."""
    rows = results["latency"]["rows"]
    return float(
        rows["merged: map, embeddings of the picture and of all places"]["p50_s"] / rows["two encoders"]["p50_s"]
    )


def _scenes(results: dict[str, Any]) -> str:
    if "latency" not in results:
        return ""
    return """## Ten scenes

Of the test split, with the names that take most of each picture.

![Ten scenes: the truth, the CLIP teacher's patches, and the merged student's two ways](sam-clip.png)"""


def _time(results: dict[str, Any]) -> str:
    if "latency" not in results:
        return ""
    latency = results["latency"]
    lines = [
        "## Time",
        "",
        f"From a decoded picture, bundles in fp32 on ONNX Runtime, {latency['threads']} thread of "
        f"{latency['environment']['cpu']}, rows measured in turns; medians with 95 % intervals. What the merged "
        "student is timed with is more than two encoders give: every place of its map in text space, too.",
        "",
        "| | ms | |",
        "|---|---|---|",
    ]
    for title, row in latency["rows"].items():
        low, high = 1e3 * row["p50_low_s"], 1e3 * row["p50_high_s"]
        lines.append(f"| {title} | {1e3 * row['p50_s']:.2f} | {low:.2f}–{high:.2f} |")
    return "\n".join(lines)


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
    spans = {
        name: " and ".join(f"{100 * value:.1f} %" for value in _span(first, FIGURES[name]))
        for name in ("names, top-1", "outlines by box, IoU")
    }
    return "\n".join(lines) + (
        "\n\nOne seed. The paper reports that 1 forgets outlines and 100 keeps names from being learnt. Here "
        f"outlines lie between {spans['outlines by box, IoU']}, and names between {spans['names, top-1']}."
    )


def _span(runs: Mapping[str, Sequence[dict[str, Any]]], figure: Figure) -> tuple[float, float]:
    values = [value for several in runs.values() for value in _values(several, figure)]
    return min(values), max(values)


def _about(results: dict[str, Any]) -> str:
    settings = results["settings"]
    data, probe, merge, outlining = (settings[name] for name in ("data", "probe", "merge", "outlining"))
    filled = f"{100 * results['pipeline']['filled_box_iou']:.1f} %" if "pipeline" in results else "not measured"
    return f"""## How

{data["images"]:,} training pictures of {data["objects"]} emoji. Names and search are measured on the whole test split
({data["eval-images"]} pictures), maps and outlines on {settings["masked_pictures"]} of them; mIoU lets words of the
background compete, `on objects alone` does not ([evaluation](../evaluate.md)). The IoU of a box that is filled with its
object: {filled}. The mask teacher learnt in {outlining["steps"]} steps of {outlining["batch_size"]} pictures. Stage 1:
{probe["steps"]} steps of {probe["batch_size"]} pictures; stage 2: {merge["steps"]} steps of {merge["batch_size"]}
pictures to name and
{merge["masks_batch_size"]} scenes with {merge["prompts.count"]} prompts each. That is
{int(merge["steps"]) * int(merge["batch_size"]) / data["images"]:.1f} passes over the pictures; the paper's stages are
20 and 16 passes over 41 million. All settings stand in `merge.json`. Stage 3 was not measured: all pictures have one
size."""


if __name__ == "__main__":
    main()
